"""Take a checkpoint to the champion and back.

Rooms, in order: `register` (a version with `card` and `served_model`), `gate` (checks and decision; `evidence` has the
checks of the held-out images, `side_by_side` and `int8` compare), `promote` (and roll back), `monitor` (on `labelled`
new images), `reproduce` (train a version again).
Door: `register.register`, `gate.judge`, `promote`.
"""
