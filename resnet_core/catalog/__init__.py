"""Decide what is known of every image ever seen, in SQL.

Rooms: `build` (the catalog's tables and rules), `splits` (train, validation, test), `folds` (cross-validation),
`near_duplicates` (images that look alike), `history` (changes by night), `corrections` (labels by people).
Door: every room.
The rules run in DuckDB; no image is opened here.
"""
