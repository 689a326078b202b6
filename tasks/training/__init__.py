"""Train, cross-validate, tune, and find label issues.

Rooms: `train` (one training), `run` (the work of every training), `start` (its first weights), `lineage` (its record).
`processes` trains on several devices of one machine, `ray_processes` on several machines. `cross_validate` and `folds`,
`tune` and `studies` (Optuna), and `label_issues` train repeatedly. Door: `train.train`, `cross_validate`, `tune`,
`label_issues`.
"""
