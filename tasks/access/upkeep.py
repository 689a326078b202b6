"""Upkeep of Prefect's server: heartbeats, leases that outlive it, and how long it remembers."""


def upkeep(days: int) -> dict[str, str]:
    """Return the variables of a server that remembers its runs for so many days."""
    return {
        # Leases of limits that a person sets outlive the server: a restart ends no run.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # seconds
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": f"P{days}D",
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"P{min(days, 7)}D",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_EVENT_RETENTION_OVERRIDES": '{"prefect.flow-run.heartbeat": "P1D"}',
    }
