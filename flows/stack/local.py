"""Start and end the local stack: the servers first, then the deployments, then the worker.

`up` starts the missing processes and waits until they answer. `down` ends only the processes that `up` started. Their
pids, logs and the password lie under the store, in `stack/`. While the stack is up, `prefect.toml` in the working
folder tells Prefect's own commands its address and the password.
"""

import base64
import json
import os
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from upath import UPath

from flows.stack.api import Api
from flows.stack.automations import watch_over
from flows.stack.deployments import POOL, check_files, deploy
from flows.stack.environments import for_mlflow, for_prefect, for_runs, named_server, server_commands
from flows.stack.guard import own_origins
from flows.stack.processes import PATIENCE, running, say, start, stop, wait_for
from flows.stack.reconcile import online, reconcile, worker_name
from resnet_core.errors import UserError
from resnet_core.storage.files import is_local
from resnet_core.storage.turns import turn
from tasks.access.passwords import OURS, PREFECT_TOML, Access, access_of, note_addresses, own_toml
from tasks.access.prefect_key import take_key_out
from tasks.settings import Settings, check_store
from tasks.watch.channels import channels

_HOST = "127.0.0.1"
_PATIENCE = 5  # seconds that a server has to answer in
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy is shown the password


def up(datasets: Sequence[Path] = (), public: bool = False) -> None:
    """Start the servers, then the deployments, then the worker. datasets: data set files, each to have its nights.

    A server that PREFECT_API_URL or MLFLOW_TRACKING_URI names is used, and not started.
    """
    check_files(datasets)
    settings = Settings()
    check_store(settings.root)
    prefect, mlflow = _named(settings)
    if not is_local(settings.root) and not (mlflow or settings.mlflow_backend_store_uri):
        raise UserError(
            f"GRAYLINE_STORE: {settings.store} holds no database. Set MLFLOW_TRACKING_URI to a server, or "
            "MLFLOW_BACKEND_STORE_URI and MLFLOW_ARTIFACTS_DESTINATION for the one that `grayline up` starts."
        )
    if public:
        _check_public(settings)
    for address, setting, health in (
        (prefect, "PREFECT_API_URL", "/health"),
        (mlflow, "MLFLOW_TRACKING_URI", "/health"),
    ):
        if address and not _answers(address + health):
            raise UserError(
                f"{setting}: no server answers at {address}. Start it, or unset {setting}: `up` starts one."
            )
    folder = settings.stack
    folder.mkdir(exist_ok=True, mode=0o700, parents=True)
    with turn(UPath(folder / "up.json"), wait=True):
        _start_all(folder, settings, datasets, public)


def _named(settings: Settings) -> tuple[str | None, str | None]:
    """Return the servers that the user names, instead of the stack's own."""
    return (
        named_server(settings.prefect_api_url, settings.prefect_port),
        named_server(settings.mlflow_tracking_uri, settings.mlflow_port),
    )


def _start_all(folder: Path, settings: Settings, datasets: Sequence[Path], public: bool) -> None:
    access, where = _access(folder, settings), channels(settings)
    take_key_out(os.environ)
    named = dict(zip(("prefect", "mlflow"), _named(settings), strict=True))
    own = {
        "prefect": own_origins(settings.prefect_port, settings.prefect_public if public else None),
        "mlflow": own_origins(settings.mlflow_port, settings.mlflow_public if public else None),
    }
    for name, port in (("prefect", settings.prefect_port), ("mlflow", settings.mlflow_port)):
        if not named[name] and not running(folder, name):
            _check_port(port, f"GRAYLINE_{name.upper()}_PORT")
    prefect, mlflow = (origins[0] for origins in own.values())
    commands, env = server_commands(settings), for_runs(settings, access)
    if not named["prefect"]:
        start(folder, "prefect", commands["prefect"], for_prefect(settings, access, public))
    if not named["mlflow"]:
        start(folder, "mlflow", commands["mlflow"], for_mlflow(settings, access, folder, public))
    if not named["prefect"]:
        wait_for("prefect", folder, lambda: _answers(f"{prefect}/api/health"))
        _check_password(f"{prefect}/api/admin/version", access.prefect, "Prefect")
    note_addresses(folder, {name: origins for name, origins in own.items() if not named[name]})
    if not named["prefect"]:
        _write_prefect_toml(prefect, access)
    api, worker = Api(env["PREFECT_API_URL"], env.get("PREFECT_API_AUTH_STRING", "")), worker_name()
    deploy(folder, env, api, datasets)
    say("deployments are up to date")
    watch_over(api, where)
    if not running(folder, "worker"):
        reconcile(api, POOL)
    start(folder, "worker", _worker(), env)
    if not named["mlflow"]:
        wait_for("mlflow", folder, lambda: _answers(f"{mlflow}/health"))
        _check_password(f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=1", access.mlflow, "MLflow")
    wait_for("worker", folder, lambda: worker in online(api, POOL))
    shown = {name: named[name] or own[name][-1 if public else 0] for name in named}
    say(f"Prefect  {shown['prefect'].removesuffix('/api')}   flows, runs, schedules")
    say(f"MLflow   {shown['mlflow']}   runs, models, versions")
    _say_how_to_get_in(folder, access, named)


def serve(name: str, datasets: Sequence[Path] = ()) -> None:
    """Become a server or the worker, for systemd and containers: this process ends with it. name: as in the logs.

    The worker waits for Prefect's server, then brings deployments and automations up to date, as `up` does.
    """
    check_files(datasets)
    settings = Settings()
    check_store(settings.root)
    folder = settings.stack
    folder.mkdir(exist_ok=True, mode=0o700, parents=True)
    access, where = _access(folder, settings), channels(settings)
    take_key_out(os.environ)
    public = bool(settings.prefect_public and settings.mlflow_public)
    if name == "worker":
        command, env = _worker(), for_runs(settings, access)
        api = Api(env["PREFECT_API_URL"], env.get("PREFECT_API_AUTH_STRING", ""))
        _wait(api.url)
        with turn(UPath(folder / "up.json"), wait=True):
            deploy(folder, env, api, datasets)
            watch_over(api, where)
            reconcile(api, POOL)
    elif name == "prefect":
        own = own_origins(settings.prefect_port, None), own_origins(settings.mlflow_port, None)
        note_addresses(folder, dict(zip(("prefect", "mlflow"), own, strict=True)))
        command, env = server_commands(settings)[name], for_prefect(settings, access, public)
    else:
        command, env = server_commands(settings)[name], for_mlflow(settings, access, folder, public)
    os.execve(sys.executable, [sys.executable, "-m", *command], env)  # noqa: S606  a command of ours


def _wait(api: str) -> None:
    """Wait for Prefect's server. Raises UserError if it does not answer in time."""
    end = time.monotonic() + PATIENCE
    while not _answers(f"{api}/health"):
        if time.monotonic() > end:
            raise UserError(
                f"PREFECT_API_URL: no server answers at {api}. Start it: `python -m flows.stack serve prefect`."
            )
        time.sleep(1)


def _worker() -> list[str]:
    return ["prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", worker_name()]


def down() -> None:
    """End the worker first: it tells the server what became of its runs."""
    settings = Settings()
    folder = settings.stack
    stop(folder, "worker")
    if running(folder, "prefect"):
        try:
            api = Api(f"{own_origins(settings.prefect_port, None)[0]}/api", _access(folder, settings).prefect)
            reconcile(api, POOL)
        except (OSError, ValueError, UserError) as error:  # it hangs: the next `up` does it
            say(f"Prefect does not answer ({error}); the next `grayline up` marks runs that have ended")
    for name in ("prefect", "mlflow"):
        stop(folder, name)
    (folder / "addresses.json").unlink(missing_ok=True)
    if own_toml():
        PREFECT_TOML.unlink()


def _access(folder: Path, settings: Settings) -> Access:
    """Return the passwords: those of the environment, or the stack's own. Raises UserError."""
    server, client = (
        secret.get_secret_value() if secret else None
        for secret in (settings.prefect_server_api_auth_string, settings.prefect_api_auth_string)
    )
    if server and client and server != client:
        raise UserError("PREFECT_API_AUTH_STRING: it differs from PREFECT_SERVER_API_AUTH_STRING. Unset one of them.")
    password = settings.mlflow_tracking_password
    mlflow = (settings.mlflow_tracking_username, password.get_secret_value() if password else None)
    return access_of(folder, server if server is not None else client or None, mlflow)


def _check_public(settings: Settings) -> None:
    """Raise UserError unless TLS with a valid certificate is in front of both servers."""
    for name, address in (("PREFECT", settings.prefect_public), ("MLFLOW", settings.mlflow_public)):
        parts = urlsplit(address or "")
        if parts.scheme != "https" or not parts.hostname or parts.path.strip("/"):
            raise UserError(
                f"--public: a TLS proxy must be in front of the servers. Set GRAYLINE_{name}_PUBLIC to the address "
                f"that it serves, such as https://{name.lower()}.example.com; docs/security.md has an example."
            )
        try:
            with socket.create_connection((parts.hostname, parts.port or 443), _PATIENCE) as connection:
                ssl.create_default_context().wrap_socket(connection, server_hostname=parts.hostname).close()
        except OSError as error:
            raise UserError(
                f"--public: no TLS with a valid certificate answers at {address} ({error}). Start the proxy in front, "
                f"or correct GRAYLINE_{name}_PUBLIC."
            ) from None


def _write_prefect_toml(prefect: str, access: Access) -> None:
    if PREFECT_TOML.exists() and not own_toml():
        say(f"{PREFECT_TOML} is your own and stays; for Prefect's commands: export PREFECT_API_URL={prefect}/api")
        return
    lines = [OURS, "[api]", f'url = "{prefect}/api"']
    if not access.prefect_given:
        lines.append(f"auth_string = {json.dumps(access.prefect)}")
    PREFECT_TOML.unlink(missing_ok=True)
    with os.fdopen(os.open(PREFECT_TOML, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("\n".join(lines) + "\n")


def _say_how_to_get_in(folder: Path, access: Access, named: Mapping[str, str | None]) -> None:
    """Print where the password is, never the password: terminals and logs are kept. named: servers of others."""
    file = folder / "password"
    prefect = access.prefect.partition(":")[0]
    own = "the password of PREFECT_SERVER_API_AUTH_STRING" if access.prefect_given else f"the password in {file}"
    if not named["prefect"]:
        say(f"Prefect's page asks for USER:PASSWORD: {prefect}, a colon, and {own}.")
    own = "the password of MLFLOW_TRACKING_PASSWORD" if access.mlflow_given else f"the password in {file}"
    if not named["mlflow"]:
        say(f"MLflow's page asks for user and password: {access.mlflow.partition(':')[0]}, and {own}.")


def _check_port(port: int, setting: str) -> None:
    try:
        socket.create_server((_HOST, port)).close()
    except OSError as error:
        raise UserError(
            f"port {port} on {_HOST} is occupied ({error.strerror}). End what uses it, or set {setting}."
        ) from None


def _ask(url: str, password: str | None = None) -> Any:
    """Return the answer to a request. Raises OSError."""
    head = {"Content-Type": "application/json"}
    if password is not None:
        head["Authorization"] = f"Basic {base64.b64encode(password.encode()).decode()}"
    with _DIRECT.open(urllib.request.Request(url, None, head), timeout=_PATIENCE) as answer:
        return answer.read()


def _answers(url: str) -> bool:
    try:
        _ask(url)
    except OSError:  # it is asked until it answers, or for PATIENCE
        return False
    return True


def _check_password(url: str, password: str, server: str) -> None:
    """Raise UserError if the server that answers takes another password."""
    try:
        _ask(url, password)
    except urllib.error.HTTPError as error:
        if error.code == 401:
            raise UserError(
                f"{server} runs with another password. Set the one of its start, or run `grayline down` first."
            ) from None
        raise
