"""Hold the flows: a file per flow, a short recipe over the stages of `tasks`.

`stack` starts the local servers, `machine` checks the installation, `cli` is the command line.
"""
