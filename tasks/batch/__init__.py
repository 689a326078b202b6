"""Score a batch: every file of a source becomes one row.

Rooms, in order: `folder` (claim the output), `plan` (find new files), `engine` and `engine_trials` (choose). Then
`score` (a part), `progress`, `finish` and `manifest` (commit), `drift`, `record` (in MLflow). `values` holds the
values that they hand to each other. Door: `plan.plan_batch`, `score.score_part`, `finish.finish_batch`.
"""
