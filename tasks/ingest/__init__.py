"""Bring a source into the catalog and its images into shards.

Rooms, in order: `scan` (list the source), `layout` (splits by the names of folders), `pixels` (read new files).
Then `levels` (decide which gray level is white), `catalog` (write the catalog), `evidence` (facts for checks). Then
`checks` (compare with the last accepted night), `preprocess` (write shards). Door: every room.
"""
