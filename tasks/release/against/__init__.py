"""Hold a version against the champion.

Rooms: `checks` on the same held-out images, which `side_by_side` scores; `flips` on files of the last batches. `kept`
reads what an earlier night has found.
Door: `kept.hold_against`.
"""
