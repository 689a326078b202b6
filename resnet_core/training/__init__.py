"""Train a classifier from shards.

Rooms: `job` (a training described), `loop` (the training loop), `config` (settings and recipes), `augment`,
`batches` (images in order), `distributed` (several processes), `search_space` (what tuning may change).
Private: `_learner` (a step), `_optim` (optimizers), `_progressive` (input sizes by epoch), `_checkpoint` (resumption).
Door: `job.TrainingJob`, `loop.fit`.
"""
