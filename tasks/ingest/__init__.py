"""Bring a source into the catalog and its images into shards.

Rooms, in order: `scan` (list the source), `pixels` (read new files), `catalog` (write the catalog). Then `evidence`
(facts for the checks), `checks` (compare with the last accepted night), `preprocess` (write shards). Door: every
room.
"""
