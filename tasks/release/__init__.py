"""Take a checkpoint to the champion and back.

Rooms, in order: `register` (with `card`, `served_model`), `gate` (checks and decision), `evidence` (its
checks of the held-out images), `against` (a wing: those against the champion), `int8` (measured by the gate),
`promote` (and roll back). `monitor` runs on `labelled` new images; `reproduce` trains a version again.
Door: `register.register`, `gate.judge`, `promote`.
"""
