"""Decide about every image ever seen, in SQL.

Rooms, in order: `corrections` (labels by people), `entries` (files to read), `build` (tables and rules).
They use `near_duplicates` and `splits` (train, validation, test); `queries` asks a catalog.
For its readers: `history` (changes by night) and `folds` (cross-validation).
Door: every room.
The rules run in DuckDB; no image is opened here.
"""
