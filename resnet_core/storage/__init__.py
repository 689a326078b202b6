"""Say where files lie, write them whole, and name them by digest.

Rooms: `files` (atomic writes, local and remote paths), `locations` (URLs and stores), `digest` (SHA-256).
More rooms: `compressed` (unpacked copies of compressed archives), `database` (DuckDB).
For names: `names` (spellings), `matching` (paths of labels), `globs`, `ignored` (never images), `split_names`.
Door: every room.
This wing imports no other wing.
"""
