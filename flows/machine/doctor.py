"""Check the installation: versions, device, store, disk space and servers. A failure names its remedy."""

import http.client
import importlib.metadata
import shutil
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from flows.stack.api import Api
from flows.stack.deployments import POOL
from flows.stack.reconcile import lost_runs, stuck_slots
from resnet_core.credentials import public
from resnet_core.errors import UserError, some_of
from resnet_core.storage.files import is_local
from resnet_core.storage.turns import holder_of
from tasks.access.modes import open_to_others
from tasks.settings import Settings, check_store
from tasks.store import own_files

_LEAST_FREE = 5 * 1024**3  # bytes
_PATIENCE = 5  # seconds that a server has to answer in
_PACKAGES = ("grayline", "prefect", "mlflow", "torch", "torchvision", "pyarrow", "pandas", "pillow")


def examine() -> Iterator[tuple[str, bool, str]]:
    """Yield every check: its name, whether it passed, and its finding or the remedy."""
    for name, check in _CHECKS.items():
        try:
            yield name, True, check()
        except UserError as error:
            yield name, False, str(error)
        except OSError as error:  # of a store on a server that is down
            yield name, False, f"cannot be read ({error.strerror or type(error).__name__}). Mend the store first."


def _check_versions() -> str:
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return f"Python {sys.version.split()[0]}, {packages}"


def _check_device() -> str:
    from resnet_core.device import describe, find_device  # PyTorch: other commands ask this module for servers alone

    name = Settings().device
    try:
        return describe(find_device(name))
    except RuntimeError as error:
        raise UserError(f"GRAYLINE_DEVICE: there is no device {name!r} here ({error}). Use auto or cpu.") from None


def _check_store() -> str:
    root = Settings().root
    check_store(root)
    if is_local(root) and open_to_others(Path(root.path), Settings().group):
        raise UserError(f"{root}: others may read it, and its owner is somebody else. They run: chmod go-rwx {root}")
    return f"{root} can be written"


def _check_space() -> str:
    root = Settings().root
    if not is_local(root):
        return "not measured on an object store"
    free = shutil.disk_usage(root.path).free
    if free < _LEAST_FREE:
        raise UserError(
            f"{free / 1024**3:.1f} GiB free under {root}: make room (`grayline prune`), or move GRAYLINE_STORE."
        )
    return f"{free / 1024**3:,.0f} GiB free"


def _check_signing() -> str:
    """Say whether versions are signed and verified; offer it. Raises UserError for a key that cannot be used."""
    from tasks.registry.integrity import MAKE_A_KEY, check_keys

    settings = Settings()
    check_keys(settings.signing_key, settings.verify_key)
    if settings.verify_key:
        return f"versions that {settings.verify_key} does not verify are refused"
    if settings.signing_key:
        return f"versions are signed by {settings.signing_key}, and not verified here: GRAYLINE_VERIFY_KEY is not set"
    return (
        "versions are not signed: who writes to MLflow can replace them. If others can, set GRAYLINE_SIGNING_KEY and "
        f"GRAYLINE_VERIFY_KEY (docs/registry.md). {MAKE_A_KEY}"
    )


def check_prefect() -> str:
    """Return the address of the Prefect server. Raises UserError if it does not answer."""
    from prefect.settings import get_current_settings

    url = public(get_current_settings().api.url or "")
    if not url:
        return "no server is set: each command starts a temporary one"
    found = _answers(
        f"{url}/health", "Prefect", "`grayline up`; or without it: `grayline down`, or correct PREFECT_API_URL"
    )
    auth = get_current_settings().api.auth_string
    try:
        Api(url, auth.get_secret_value() if auth else "").ask("/flows/count", {})
    except urllib.error.HTTPError as error:  # other codes are for the flow to say
        if error.code == 401 and not get_current_settings().api.key:
            raise UserError(_no_entry("Prefect", url, "PREFECT_API_AUTH_STRING (USER:PASSWORD)")) from None
    except (OSError, ValueError):
        pass  # the flow says more
    return found


def _check_nights() -> str:
    """Return who is at work on which data set. Raises UserError for runs and slots of ended processes in Prefect."""
    from prefect.settings import get_current_settings

    root = Settings().root
    files = own_files(root / "turns", "*.json")
    found = [f"{file.stem}: {holder}" for file in files if (holder := holder_of(file))]
    url, auth = get_current_settings().api.url, get_current_settings().api.auth_string
    if url:
        api = Api(url.rstrip("/"), auth.get_secret_value() if auth else "")
        try:
            lost = [f"run {run['name']} is {run['state_name']} and has no process" for run in lost_runs(api, POOL)]
            lost += [f"a slot of {deployment['name']} is taken by no run" for deployment, _ in stuck_slots(api, POOL)]
        except OSError:
            lost = []  # no server, no work pool, no entry: the check of Prefect says more
        if lost:
            raise UserError(f"{some_of(lost, 3, '; ')}. Run `grayline down` and `grayline up`: they are freed.")
    return "; ".join(found) or "nobody is at work"


def check_mlflow() -> str:
    """Return MLflow's address. Raises UserError if it does not answer, or if it is of a kind without a registry."""
    uri = Settings().tracking_uri
    address = urlsplit(uri)
    kind = address.scheme.partition("+")[0]
    if kind in ("http", "https"):
        found = _answers(f"{uri.rstrip('/')}/health", "MLflow", "`grayline up`, or correct MLFLOW_TRACKING_URI")
        _check_entry(uri)
        return found
    if kind in _DATABASE_PORTS:
        _check_connection(address.hostname or "localhost", address.port or _DATABASE_PORTS[kind])
    elif kind not in ("sqlite", "databricks", "databricks-uc", "uc"):
        raise UserError(
            f"MLFLOW_TRACKING_URI: MLflow keeps no models in {uri}. Name a server (http://HOST:5000) or a database "
            "(sqlite:////FOLDER/mlflow.db); `mlflow migrate-filestore` copies old runs into one."
        )
    return uri


def _check_entry(uri: str) -> None:
    """Raise UserError if MLflow refuses the password that its client would send."""
    from mlflow.utils.credentials import get_default_host_creds  # MLflow takes its time to import
    from mlflow.utils.rest_utils import http_request

    try:
        answer = http_request(  # type: ignore[no-untyped-call]
            get_default_host_creds(uri),  # type: ignore[no-untyped-call]
            "/api/2.0/mlflow/experiments/search?max_results=1",
            "GET",
            max_retries=0,
            timeout=_PATIENCE,
        )
    except Exception:  # noqa: BLE001 - the command's own request says more
        return
    if answer.status_code == 401:
        raise UserError(_no_entry("MLflow", uri, "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"))


def _no_entry(server: str, address: str, variables: str) -> str:
    return (
        f"{server} at {address} asks for a password, and the one given here is not right, or missing. "
        f"Set {variables}. For a server of `grayline up`, set GRAYLINE_STORE to its store, which has it."
    )


_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def _check_connection(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), _PATIENCE).close()
    except OSError as error:
        raise UserError(
            f"MLFLOW_TRACKING_URI: no database answers at {host}:{port} ({error}). Start it, or correct the address."
        ) from None


def _answers(url: str, server: str, remedy: str) -> str:
    """Ask a server for its health. A page with another content is not its answer, as that of a proxy's login."""
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE) as answer:
            said = answer.read(1000).strip()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(f"{server} does not answer at {url} ({error}). Start it: {remedy}.") from None
    if said.lower() not in (b"true", b"ok"):
        raise UserError(f"{server} does not answer at {url}: another page lies there. Is it a login? Else {remedy}.")
    return f"{url} answers"


_CHECKS: dict[str, Callable[[], str]] = {
    "versions": _check_versions,
    "device": _check_device,
    "store": _check_store,
    "disk": _check_space,
    "prefect": check_prefect,
    "mlflow": check_mlflow,
    "nights": _check_nights,
    "signing": _check_signing,
}
