"""The local stack: a Prefect server, an MLflow server, a worker and all deployments, on loopback.

`python -m flows.stack up` starts the missing processes and waits until they answer.
`down` ends only the processes that `up` started. Their pids and logs lie under the store, in `stack/`.
While the stack is up, `prefect.toml` in the working folder tells Prefect's own commands its address.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import psutil
import yaml

from resnet_core.errors import UserError, nearest
from resnet_core.storage.files import is_local
from tasks.progress import complain
from tasks.settings import Settings, check_store, prepare_environment
from tasks.store import Store

PREFECT_YAML = Path(__file__).resolve().parents[1] / "prefect.yaml"


def deployment_names() -> list[str]:
    content = yaml.safe_load(PREFECT_YAML.read_text(encoding="utf-8"))
    return [deployment["name"] for deployment in content["deployments"]]


def run_deployment(name: str, parameters: list[str], watch: bool) -> int:
    """Run `prefect deployment run NAME/NAME`; return its exit status. Raises UserError for wrong input."""
    from prefect.settings import get_current_settings

    names = deployment_names()
    name = name.split("/")[0]
    if name not in names:
        raise UserError(f"run: unknown deployment {name!r}.{nearest(name, names)} Known: {', '.join(names)}.")
    for parameter in parameters:
        if "=" not in parameter:
            raise UserError(f"--param: {parameter!r} is not key=value, as in --param source=data/raw/elpv.")
    if not get_current_settings().api.url:
        raise UserError("run: no Prefect server is set. Run `make up` in this folder, or set PREFECT_API_URL.")
    options = [word for parameter in parameters for word in ("--param", parameter)]
    command = [sys.executable, "-m", "prefect", "deployment", "run", f"{name}/{name}", *options]
    return subprocess.call([*command, "--watch"] if watch else command)


_HOST = "127.0.0.1"
_POOL = "grayline"
_PREFECT_TOML = Path("prefect.toml")
_OURS = "# Written by `make up`, removed by `make down`."
PATIENCE = 120.0  # seconds that a server may take to answer


def main() -> None:
    """Run `up` or `down`; turn the user's errors into one line and status 2."""
    try:
        prepare_environment()
        {"up": up, "down": down}[sys.argv[1]]()
    except UserError as error:
        complain(error)
        sys.exit(2)


def up() -> None:
    """Start the servers, then the deployments, then the worker."""
    settings = Settings()
    check_store(settings.root)
    if not is_local(settings.root):
        raise UserError(f"GRAYLINE_STORE: the local stack needs a local store, not {settings.store}.")
    folder = Path(Store(settings.root).stack().path)
    folder.mkdir(exist_ok=True)
    ports = {"prefect": settings.prefect_port, "mlflow": settings.mlflow_port}
    prefect, mlflow = (f"http://{_HOST}:{port}" for port in ports.values())
    env = _environment(settings, prefect, mlflow)
    for name, port in ports.items():
        if not _running(folder, name):
            _check_port(port, f"GRAYLINE_{name.upper()}_PORT")
    database = ["--backend-store-uri", Store(settings.root).tracking_uri()]
    artifacts = ["--artifacts-destination", f"file://{quote(Store(settings.root).artifacts().path)}"]
    at = {name: ["--host", _HOST, "--port", str(port)] for name, port in ports.items()}
    _start(folder, "prefect", ["prefect", "server", "start", *at["prefect"]], env)
    _start(folder, "mlflow", ["mlflow", "server", *at["mlflow"], *database, *artifacts, "--workers", "1"], env)
    _wait_for("prefect", folder, lambda: _answers(f"{prefect}/api/health"))
    _write_prefect_toml(prefect)
    _call(folder, "work-pool", ["work-pool", "create", _POOL, "--type", "process", "--overwrite"], env)
    _call(folder, "deploy", ["deploy", "--all", "--prefect-file", str(PREFECT_YAML)], env)
    _start(folder, "worker", ["prefect", "worker", "start", "--pool", _POOL, "--type", "process"], env)
    _wait_for("mlflow", folder, lambda: _answers(f"{mlflow}/health"))
    _wait_for("worker", folder, lambda: _worker_is_online(prefect))
    _say(f"Prefect  {prefect}   flows, runs, schedules")
    _say(f"MLflow   {mlflow}   runs, models, versions")


def down() -> None:
    """End the worker first: it tells the server what became of its runs."""
    folder = Path(Store(Settings().root).stack().path)
    for name in ("worker", "prefect", "mlflow"):
        _stop(folder, name)
    if _PREFECT_TOML.exists() and _PREFECT_TOML.read_text(encoding="utf-8").startswith(_OURS):
        _PREFECT_TOML.unlink()


def _environment(settings: Settings, prefect: str, mlflow: str) -> dict[str, str]:
    """Return the environment of the servers, the worker and the flow runs."""
    return {
        **os.environ,
        "PREFECT_API_URL": f"{prefect}/api",
        "PREFECT_UI_API_URL": f"{prefect}/api",
        "MLFLOW_TRACKING_URI": mlflow,
        "GRAYLINE_STORE": settings.root.path,
        "GRAYLINE_HOME": str(Path.cwd()),
    }


def _write_prefect_toml(prefect: str) -> None:
    if _PREFECT_TOML.exists() and not _PREFECT_TOML.read_text(encoding="utf-8").startswith(_OURS):
        _say(f"{_PREFECT_TOML} is your own and stays; for Prefect's commands: export PREFECT_API_URL={prefect}/api")
        return
    _PREFECT_TOML.write_text(f'{_OURS}\n[api]\nurl = "{prefect}/api"\n', encoding="utf-8")


def _check_port(port: int, setting: str) -> None:
    try:
        socket.create_server((_HOST, port)).close()
    except OSError as error:
        raise UserError(
            f"port {port} on {_HOST} is occupied ({error.strerror}). End what uses it, or set {setting}."
        ) from None


def _start(folder: Path, name: str, command: list[str], env: dict[str, str]) -> None:
    """Start `python -m COMMAND`, unless it runs; it outlives this process. Write its pid and start time to a file."""
    if _running(folder, name):
        _say(f"{name} is running already")
        return
    with (folder / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    note = {"pid": process.pid, "began": psutil.Process(process.pid).create_time()}
    (folder / f"{name}.json").write_text(json.dumps(note), encoding="utf-8")


def _running(folder: Path, name: str) -> psutil.Process | None:
    """Return the process that `start` started under this name, if it lives.

    The start time is compared too, because another process may have got the pid since.
    """
    try:
        note = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        process = psutil.Process(note["pid"])
        alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return process if alive and abs(process.create_time() - note["began"]) < 1 else None
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None


def _stop(folder: Path, name: str) -> None:
    process = _running(folder, name)
    if process:
        family = [process, *process.children(recursive=True)]
        process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=15)
        for survivor in left:
            survivor.kill()
        _say(f"{name} stopped")
    (folder / f"{name}.json").unlink(missing_ok=True)


def _call(folder: Path, name: str, words: list[str], env: dict[str, str]) -> None:
    """Run a command of Prefect's. Raises RuntimeError if it fails."""
    command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    (folder / f"{name}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command[1:])}` failed; see {folder / f'{name}.log'}")


def _wait_for(name: str, folder: Path, ready: Callable[[], bool]) -> None:
    """Wait until it is ready. Raises RuntimeError if it dies or takes longer than PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if not _running(folder, name):
            raise RuntimeError(f"{name} has ended; see {folder / f'{name}.log'}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{name} does not answer after {PATIENCE:.0f} s; see {folder / f'{name}.log'}")
        time.sleep(0.5)


def _answers(url: str) -> bool:
    """Return whether a server answers within 5 seconds."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


def _worker_is_online(prefect: str) -> bool:
    request = urllib.request.Request(
        f"{prefect}/api/work_pools/{_POOL}/workers/filter",
        data=b"{}",
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=5) as answer:
        return any(worker["status"] == "ONLINE" for worker in json.load(answer))


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
