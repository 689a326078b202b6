"""Hold the command line: a file per group of commands, each command beside its output.

Rooms: `demo`, `begin` (init), `predict` (single images).
More rooms: `stages` (ingest to retrain, tune), `labels` (label-issues), `scores` (classify-batch, gallery).
The others: `versions` (promote, history, report), `frameworks` (export, features), `store` (catalog, prune).
`options` holds shared options, checks of words and input, `tables` the console and the style of tables.
Heavy imports wait inside the commands, so that `--help` answers at once.
Door: `app.main`.
"""
