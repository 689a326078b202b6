"""Talk with MLflow: runs, versions, the champion, integrity.

Rooms: `runs` (experiments and metrics), `versions` (tags, aliases, loading), `champion` (the alias, its history);
`images` (training and test images of a version), `int8_file`, `integrity` (digests and signatures), `loading`.
Room `patience` says what counts as an answer, and tries again. Room `direct` does without MLflow where it can.
Functions take `tracking_uri: str`. Moving an alias does not import PyTorch.
Door: every room.
"""
