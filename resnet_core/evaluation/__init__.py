"""Measure how good predictions are.

Rooms: `metrics`, `bootstrap` (intervals), `comparison` (two models on the same images), `slices` (by attribute),
`calibrate` (temperature, decisions from costs), `decide` (labels, sets, reviews), `assess` (all of it for a version),
`input_sizes` (accuracy by input size), `label_issues` (labels that are probably wrong).
Door: every room.
"""
