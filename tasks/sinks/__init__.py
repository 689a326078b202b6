"""Write the rows of a batch to another place.

Rooms: `sinks` (find and check a target, write), `rows` (the rows of a batch in order),
`csv_file`, `delta`, `iceberg`, `sql`: a file per kind of target, found by its name.
Door: `sinks.check_target`, `sinks.write_to`.
A write commits whole or not at all.
"""
