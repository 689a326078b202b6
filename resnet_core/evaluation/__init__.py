"""Measure how good predictions are.

Rooms: `metrics` (the registry METRICS), `bootstrap` (intervals), `comparison` (two models on the same images).
`slices` (accuracy by attribute), `input_sizes` (accuracy by size), `label_issues` (labels that are probably wrong).
`calibrate` (temperature, decision weights, sets), `decide` (weights from costs and recalls).
`assess` (all of it for a version).
Door: every room.
"""
