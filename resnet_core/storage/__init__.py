"""Say where files lie, write them whole, and name them by digest.

Rooms: `files` (atomic writes, local and remote paths), `locations` (URLs and stores),
`compressed` (unpacked copies of compressed archives), `database` (DuckDB), `digest` (SHA-256 of values and files).
Door: every room.
This wing imports no other wing.
"""
