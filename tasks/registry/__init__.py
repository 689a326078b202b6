"""Talk with MLflow: runs, versions, the champion, integrity.

Rooms: `runs` (tracking), `versions` (find and load a version), `champion` (alias, events, history),
`images` (the images that a version has seen), `int8_file`, `integrity` (digests and signatures).
Door: every room.
"""
