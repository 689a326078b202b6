"""Write the rows of a batch to another place.

Rooms: `sinks` (find, check and write a target), `rows` (the rows of a batch in order), and one file per sink.
A target chooses its sink by name: `NAME:PLACE` is written by `NAME.py` (`delta`, `iceberg`), `FILE.NAME` and
`FILE.NAME.gz` by `NAME_file.py` (`csv_file`), a database's URL by `sql`. To add a sink, add its file.
A sink has `check(place)`, `write(place, batch, rows)` and `ERRORS`; its `write` commits all rows or none.
Door: `sinks.check_target`, `sinks.write_to`.
"""
