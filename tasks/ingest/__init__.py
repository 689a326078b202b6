"""Bring a source into the catalog and its images into shards.

Rooms, in order: `scan` (list the source), `pixels` (read new files), `catalog` (write the catalog),
`evidence` and `checks` (like the last night?), `preprocess` (write shards).
Door: every room.
"""
