"""Environments of the stack's processes. A server is given what it needs: no keys, no credentials of the user's."""

import os
import re
from pathlib import Path
from urllib.parse import quote

from flows.stack.guard import own_origins
from tasks.access.passwords import Access, own_secret
from tasks.settings import Settings
from tasks.store import Store, sqlite_address

# Variables of the machine and of Python. PG... are PostgreSQL's own, for Prefect's database.
_MACHINE = (
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|PYTHON\w*|VIRTUAL_ENV|LD_LIBRARY_PATH|XDG_\w+|OMP_\w+"
)
_PREFECT = re.compile(rf"{_MACHINE}|DO_NOT_TRACK|PREFECT_\w+|PG\w+|SSL_CERT_\w+|REQUESTS_CA_BUNDLE")
_MLFLOW = re.compile(rf"{_MACHINE}|DO_NOT_TRACK|MLFLOW_\w+")
_OF_SERVERS = re.compile(
    r"PREFECT_SERVER_(API_AUTH_STRING|ENCRYPTION_KEY)|MLFLOW_AUTH_\w+|MLFLOW_FLASK_SERVER_SECRET_KEY"
)


def _machine(names: re.Pattern[str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if names.fullmatch(name)}


def for_prefect(settings: Settings, access: Access, public: bool) -> dict[str, str]:
    """Return the environment of Prefect's server."""
    port, address = settings.prefect_port, settings.prefect_public if public else None
    origins = own_origins(port, address)
    return {
        **_machine(_PREFECT),
        "PREFECT_API_URL": f"{origins[0]}/api",
        "PREFECT_UI_API_URL": "/api",
        "PREFECT_API_AUTH_STRING": access.prefect,
        "PREFECT_SERVER_API_AUTH_STRING": access.prefect,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
        **_door("PREFECT", port, address),
    }


def for_mlflow(settings: Settings, access: Access, folder: Path, public: bool) -> dict[str, str]:
    """Return the environment of MLflow's server; write the file of its users' settings."""
    port, address = settings.mlflow_port, settings.mlflow_public if public else None
    origins = own_origins(port, address)
    user, _, password = access.mlflow.partition(":")
    users = sqlite_address(str(folder / "mlflow-users.db")).replace("%", "%%")
    # A check of a password takes 60 ms; a night asks hundreds of times.
    (folder / "mlflow-auth.ini").write_text(
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = {users}\nauth_cache_ttl_seconds = 3600\n",
        encoding="utf-8",
    )
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "mlflow-auth.ini"),
        **{name: value for name, value in _machine(_MLFLOW).items() if not name.startswith("MLFLOW_TRACKING_")},
        "MLFLOW_AUTH_ADMIN_USERNAME": user,
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": own_secret(folder / "flask-key"),
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(origin.partition("//")[2] for origin in origins),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # the jobs are those of large language models
        **_door("MLFLOW", port, address),
    }


def for_runs(settings: Settings, access: Access) -> dict[str, str]:
    """Return the environment of the worker, its flow runs and Prefect's commands."""
    prefect, mlflow = (own_origins(port, None)[0] for port in (settings.prefect_port, settings.mlflow_port))
    return {
        **{name: value for name, value in os.environ.items() if not _OF_SERVERS.fullmatch(name)},
        "PREFECT_API_URL": f"{prefect}/api",
        "MLFLOW_TRACKING_URI": mlflow,
        "GRAYLINE_STORE": settings.root.path,
        **access.client(),
    }


def server_commands(settings: Settings) -> dict[str, list[str]]:
    """Return the command of each server, without the interpreter. They hold no password: everybody may read them."""
    store = Store(settings.root)
    at = {
        name: ["--host", "127.0.0.1", "--port", str(port)]
        for name, port in (("prefect", settings.prefect_port), ("mlflow", settings.mlflow_port))
    }
    database = ["--backend-store-uri", store.tracking_uri()]
    places = [*database, "--artifacts-destination", f"file://{quote(store.artifacts().path)}"]
    return {
        "prefect": ["uvicorn", "--factory", "flows.stack.guard:prefect_app", *at["prefect"]],
        "mlflow": ["mlflow", "server", "--app-name", "grayline", *at["mlflow"], *places, "--workers", "1"],
    }


def _door(server: str, port: int, public: str | None) -> dict[str, str]:
    """Return the settings that the door reads."""
    return {f"GRAYLINE_{server}_PORT": str(port)} | ({f"GRAYLINE_{server}_PUBLIC": public} if public else {})
