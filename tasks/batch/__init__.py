"""Score a batch: every file of a source becomes one row.

Rooms, in order: `folder` (claim the output), `plan` (which files are new), `engine` and `engine_trials` (choose),
`score` (a part), `progress`, `finish` (commit and manifest), `drift`, `record` (in MLflow).
`values` holds what they hand to each other.
Door: `plan.plan_batch`, `score.score_part`, `finish.finish_batch`.
"""
