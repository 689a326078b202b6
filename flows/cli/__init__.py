"""Hold the command line: a file per group of commands, each command beside its output.

Rooms: `app` (the stages, demo, main), `store` (catalog, prune), `versions` (promote, history, report),
`labels` (label issues), `scores` (classify-batch, gallery, drift), `frameworks` (export, features).
`tables` prints results, `options` holds arguments that commands share.
Heavy imports wait inside the commands, so that `--help` answers at once.
Door: `app.main`.
"""
