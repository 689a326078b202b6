"""Evaluate and explain a checkpoint on held-out images.

Rooms: `evaluate` (metrics, calibration, slices), `held_out` (predictions of held-out images),
`files` (what an evaluation writes), `reference` (the data that a version learned from),
`explain` (Grad-CAM and neighbours), `page` (Prefect's page).
Door: `evaluate.evaluate`, `explain.explain`.
"""
