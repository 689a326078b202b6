"""Define the Parquet format of training images.

Rooms: `format` (columns, writing, reading by place or by id), `encryption` (keys of confidential data sets),
`soft_labels` (probabilities instead of one class).
Door: every room.
pandas, DuckDB and Polars read the files without this code.
"""
