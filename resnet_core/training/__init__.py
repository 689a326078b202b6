"""Train a classifier from shards.

job             a training and its inputs
loop            the training loop
config          settings and recipes
augment         random changes of a batch
batches         training images, resident or streamed
distributed     several processes
search_space    the settings that tuning changes
Private: _learner (a step), _optim (optimizers), _progressive (input sizes), _checkpoint (resumption).

Door: `job.run`, `loop.fit`.
"""
