"""Evaluate and explain a checkpoint on held-out images.

Rooms: `evaluate` (metrics, calibration, slices), `held_out` (predictions of held-out images), `files` (the files of
an evaluation), `page` (Prefect's page). `reference` describes the data that a version learned from, `explain` makes
the gallery with heat maps. Door: `evaluate.evaluate`, `explain.explain`.
"""
