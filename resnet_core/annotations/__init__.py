"""Labels by people from the tools that they label with, and files for these tools.

Rooms: `label_studio`, `cvat` (both ways), `_webdataset`, `people` (several answers for an image), `exports` (reading).
Door: `exports.read_labels`; `label_studio` and `cvat` write.
An export names files as its tool does: a file of the source is found by the end of its path.
"""
