"""The local stack: a Prefect server, an MLflow server, a worker and all deployments, on loopback.

Room __main__ is `python -m flows.stack up`, and local does it, in order. Room processes starts, waits and ends.
Room environments says what each process is given. Room deployments has prefect.yaml, the work pool and runs by name.
Room guard is the servers' door for browsers. Room temporary is the Prefect server of a single command.
"""
