"""Talk with MLflow: runs, versions, the champion, integrity.

Rooms: `runs` (experiments and metrics), `versions` (tags, aliases, loading), `champion` (the alias, its history);
`images` (training and test images of a version), `int8_file`, `integrity` (digests and signatures).
Room `patience` says what counts as an answer, and tries again.
Functions take `tracking_uri: str`. Moving an alias does not import PyTorch.
Door: every room.
"""
