"""Train, cross-validate, tune, and find label issues.

Rooms: `train` (one training), `run` (the task that runs it), `processes` (several processes on one machine),
`ray_processes` (several machines), `lineage` (code and packages of a training),
`cross_validate` and `folds`, `tune` and `studies` (Optuna), `label_issues`.
Door: `train.train`, `cross_validate`, `tune`, `label_issues`.
"""
