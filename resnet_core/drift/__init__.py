"""Tell whether the data is still what it was, by night and by batch.

Rooms: `summary` and `profiles` (counts and histograms), `checks` (a night against the last accepted one),
`reference` (a version's own data), `drift` (a batch against that reference).
Door: every room.
"""
