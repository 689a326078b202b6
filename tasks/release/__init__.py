"""Take a checkpoint to the champion and back.

Rooms, in order: `register` (with `card`, `served_model`), `gate` (checks and decision), `evidence` (its
checks of the held-out images), `against` (those against the champion), `kept` (reads what they found), `promote`
(and roll back). `side_by_side`, `flips` and `int8` compare for the gate.
`monitor` runs on `labelled` new images; `reproduce` trains a version again.
Door: `register.register`, `gate.judge`, `promote`.
"""
