"""The environment of this process: defaults of the libraries' own variables, set before they are imported."""

import os
import warnings
from urllib.parse import unquote, urlsplit, urlunsplit

from upath import UPath

from resnet_core.cores import thread_variables
from resnet_core.credentials import public
from resnet_core.errors import UserError
from resnet_core.storage.files import is_local
from tasks.access.modes import secret_lines
from tasks.access.prefect_key import use_key
from tasks.access.upkeep import upkeep
from tasks.store import Store, sqlite_address


def set_defaults(store: UPath, days: int, logs: str) -> None:
    """Set defaults for the libraries' own variables; variables that are set stay.

    Prefect's database lies in the store too, so that a store is complete and can be deleted whole. Nothing is sent
    to anybody, and no pickle is loaded. days: for which Prefect remembers; logs: how log lines are written.
    """
    defaults = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "http://127.0.0.1",  # of a temporary server: no page may read it
        "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "true",  # so that `deployment run --watch` shows a run's log
        "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "true",
        **upkeep(days),
        "DO_NOT_TRACK": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # `tasks.registry.patience` tries again, and says so
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "403,500,504",  # of a proxy; Prefect's own are 429, 502 and 503
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # for `train.deterministic`; cuBLAS reads it once, when it starts
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # what a failed task raised is kept as text
        "PREFECT_LOGGING_EXTRA_LOGGERS": "grayline",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # `sample` logs outside of any flow
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # a busy machine needs over 20
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # one of a hundred small files says nothing
    }
    if logs == "json":
        defaults["PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER"] = "json"
        defaults["PREFECT_LOGGING_FORMATTERS_JSON_CLASS"] = "tasks.progress.JsonLines"
        defaults["PREFECT_LOGGING_COLORS"] = "false"
    if is_local(store):
        # By default it lies in /tmp under the user's name, where another user may have put code.
        defaults["TORCHINDUCTOR_CACHE_DIR"] = Store(store).compiled().path
        home = Store(store).prefect().path
        defaults["PREFECT_HOME"] = home
        address = sqlite_address(f"{home}/prefect.db").replace("sqlite:", "sqlite+aiosqlite:")
        if "PREFECT_HOME" not in os.environ and not address.endswith(f"{home}/prefect.db"):
            # Prefect would take the path for an address as it is.
            defaults["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = address
    server = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if server.scheme in ("http", "https") and server.username:
        # MLflow repeats its server in errors and logs, but not these variables of its own.
        os.environ["MLFLOW_TRACKING_URI"] = urlunsplit(server._replace(netloc=server.netloc.rpartition("@")[2]))
        defaults["MLFLOW_TRACKING_USERNAME"] = unquote(server.username)
        defaults["MLFLOW_TRACKING_PASSWORD"] = unquote(server.password or "")
    for name, value in (defaults | thread_variables(os.environ)).items():
        os.environ.setdefault(name, value)
    if is_local(store):
        use_key(os.environ)
    # Prefect looks for its home when it is imported; `check_store` makes it when a command needs it.
    warnings.filterwarnings("ignore", message="Failed to create the Prefect home")
    # Pillow's warnings about a bad file are in the file's row.
    warnings.filterwarnings("ignore", module=r"(PIL|pydicom)\.")


def learn_access(file: str) -> None:
    """Remember the URLs of `GRAYLINE_ACCESS_FILE`. Raises UserError if others can read it, or nobody."""
    for number, line in secret_lines(file, "GRAYLINE_ACCESS_FILE"):
        if public(line) == line:
            raise UserError(f"GRAYLINE_ACCESS_FILE: line {number} of {file} is not a URL with a secret. Remove it.")
