"""Store training images as Parquet files that any reader of Parquet can read.

Rooms: `format` (columns, writing, reading by split, by place or by id), `row_groups` (reading in random order).
Both use `soft_labels` (shares of several classes) and `encryption` (keys of confidential data sets).
Door: every room.
pandas, DuckDB and Polars read the files without this code.
"""
