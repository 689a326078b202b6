"""Environments of the stack's processes. A server is given what it needs: no keys, no credentials of the user's."""

import os
import re
from pathlib import Path
from urllib.parse import quote

from flows.stack.guard import own_origins
from resnet_core.credentials import opened
from resnet_core.storage.files import is_local
from tasks.access.passwords import Access, own_secret
from tasks.settings import Settings
from tasks.store import Store, sqlite_address

# Variables of the machine and of Python. PG... are PostgreSQL's own, for Prefect's database.
_MACHINE = (
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|PYTHON\w*|VIRTUAL_ENV|LD_LIBRARY_PATH|XDG_\w+|OMP_\w+"
)
_PREFECT = re.compile(rf"{_MACHINE}|DO_NOT_TRACK|PREFECT_\w+|PG\w+|SSL_CERT_\w+|REQUESTS_CA_BUNDLE")
_MLFLOW = re.compile(rf"{_MACHINE}|DO_NOT_TRACK|MLFLOW_\w+")
_OBJECT_STORES = re.compile(r"AWS_\w+|GOOGLE_\w+|AZURE_\w+|MLFLOW_S3_\w+|SSL_CERT_\w+|REQUESTS_CA_BUNDLE")
_OF_SERVERS = re.compile(
    r"PREFECT_SERVER_(API_AUTH_STRING|ENCRYPTION_KEY|DATABASE_\w+)|MLFLOW_BACKEND_STORE_URI|MLFLOW_AUTH_\w+|MLFLOW_FLASK_SERVER_SECRET_KEY"
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
        "PREFECT_UI_URL": (settings.prefect_public or origins[0]).rstrip("/"),
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
    place = settings.mlflow_artifacts_destination or ""
    database = opened(settings.mlflow_tracking_uri or "")
    return {
        **(_machine(_OBJECT_STORES) if "://" in place and not place.startswith("file:") else {}),
        **({"MLFLOW_BACKEND_STORE_URI": database} if _is_database(database) else {}),
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
    """Return the environment of the worker, its flow runs and Prefect's commands.

    A server that the user names is shown the user's own password, never that of the stack.
    """
    prefect, mlflow = (own_origins(port, None)[0] for port in (settings.prefect_port, settings.mlflow_port))
    env = {name: value for name, value in os.environ.items() if not _OF_SERVERS.fullmatch(name)}
    own = access.client()
    page = settings.prefect_public or prefect
    if named := named_server(settings.prefect_api_url, settings.prefect_port):
        own.pop("PREFECT_API_AUTH_STRING")
        page = settings.prefect_public or named.removesuffix("/api")
    if other := named_server(settings.mlflow_tracking_uri, settings.mlflow_port):
        own = {name: value for name, value in own.items() if not name.startswith("MLFLOW_")}
    return {
        **env,
        "PREFECT_API_URL": named or f"{prefect}/api",
        "PREFECT_UI_URL": page.rstrip("/"),  # in links of alerts
        "MLFLOW_TRACKING_URI": other or mlflow,
        "GRAYLINE_STORE": str(settings.root) if not is_local(settings.root) else settings.root.path,
        **own,
    }


def named_server(address: str | None, port: int) -> str | None:
    """Return the address of a server that the user names and that is not the stack's own. None if `up` starts it."""
    if not (address or "").startswith(("http://", "https://")):
        return None
    place = str(address).rstrip("/").removesuffix("/api")
    return None if place in own_origins(port, None) else str(address).rstrip("/")


def server_commands(settings: Settings) -> dict[str, list[str]]:
    """Return the command of each server, without the interpreter. They hold no password: everybody may read them."""
    store = Store(settings.root)
    at = {
        name: ["--host", "127.0.0.1", "--port", str(port)]
        for name, port in (("prefect", settings.prefect_port), ("mlflow", settings.mlflow_port))
    }
    places = []  # what the user sets by MLflow's own variables is not on the command line, which everybody may read
    if not settings.mlflow_backend_store_uri and not _is_database(settings.mlflow_tracking_uri or ""):
        places += ["--backend-store-uri", store.tracking_uri()]
    if not settings.mlflow_artifacts_destination:
        places += ["--artifacts-destination", f"file://{quote(store.artifacts().path)}"]
    return {
        "prefect": ["uvicorn", "--factory", "flows.stack.guard:prefect_app", *at["prefect"]],
        "mlflow": ["mlflow", "server", "--app-name", "grayline", *at["mlflow"], *places, "--workers", "1"],
    }


def _is_database(address: str) -> bool:
    """Return whether MLflow's address is a database, which a server in front of it keeps its runs in."""
    return "://" in address and not address.startswith(("http://", "https://", "file:"))


def _door(server: str, port: int, public: str | None) -> dict[str, str]:
    """Return the settings that the door reads."""
    return {f"GRAYLINE_{server}_PORT": str(port), f"GRAYLINE_{server}_PUBLIC": public or ""}
