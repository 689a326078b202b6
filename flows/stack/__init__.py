"""The local stack: a Prefect server, an MLflow server, a worker and all deployments, on loopback.

Room __main__ is `python -m flows.stack up`, and local does it, in order. Room processes starts, waits and ends.
Room environments says what each process is given. Room deployments has prefect.yaml and the work pool, and
runs follows a run to its end. Room reconcile marks runs that have ended; automations watches over them.
Room guard is the servers' door for browsers. Room temporary is the Prefect server of a single command.
"""
