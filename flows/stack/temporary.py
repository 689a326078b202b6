"""The temporary Prefect server of a command: it outlives signals to the command, and never the command itself.

Prefect starts it in the command's process group: Ctrl-C ends it before the command has reported the end of its
runs. A command that was killed left it behind. Runs that a command can no longer report are marked as Crashed here.
It is run as a script, and its process imports nothing of the project.
"""

import os
import re
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

_SECONDS = 0.5  # between two looks for the parent
_LONGEST_END = 3.0  # seconds
_PORT_TAKEN = 3  # Prefect then tries another
_SET_STATE = re.compile(r"/api/flow_runs/([^/]+)/set_state")
_GOING_ON = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
_CRASHED = {"type": "CRASHED", "name": "Crashed", "message": "Its process has ended without a word."}


class _Process(subprocess.Popen[Any]):
    """The server, which ends with its standard input: no signal of somebody else ends it."""

    def terminate(self) -> None:
        if self.stdin:
            self.stdin.close()


def use_own_server() -> None:
    """Start the server in a session of its own, with a password, if no server is set; Prefect finds it.

    It becomes ready while the command imports the rest, which takes seconds, too.
    """
    from prefect.settings import get_current_settings

    if get_current_settings().api.url:
        return
    from prefect.context import refresh_global_settings_context

    # Pages in a browser and other users of the machine reach it, too.
    password = os.environ.setdefault("PREFECT_SERVER_API_AUTH_STRING", f"grayline:{secrets.token_urlsafe(24)}")
    os.environ["PREFECT_API_AUTH_STRING"] = password
    refresh_global_settings_context()
    port = _free_port()
    early = [] if _started else [_start(port)]
    from prefect.server.api.server import SubprocessASGIServer

    class Server(SubprocessASGIServer):
        def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
            return early.pop() if early else _start(self.port or port)

        def stop(self) -> None:
            super().stop()
            _started.clear()

    server = Server()  # a process has one
    if early:
        server.port = port
        _started.append(server)


_started: list[object] = []  # the server, from its start to its end


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _start(port: int) -> _Process:
    from prefect.settings import get_current_settings

    variables = get_current_settings().to_environment_variables(exclude_unset=True)
    mode = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GRAYLINE_")}  # keys
    return _Process(
        [sys.executable, "-P", str(Path(__file__)), str(port), str(os.getpid())],
        stdin=subprocess.PIPE, env={**ours, **mode, **variables}, start_new_session=True,
    )  # fmt: skip


def main() -> None:
    """Serve on the port until the parent ends or closes the pipe."""
    port, parent = map(int, sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    import uvicorn
    from prefect.server.api.server import create_app

    app, runs = create_app(), set[str]()

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        if run := _SET_STATE.fullmatch(scope.get("path", "")):
            runs.add(run[1])
        await app(scope, receive, send)

    config = uvicorn.Config(
        noting, host="127.0.0.1", port=port, log_level="error", lifespan="on", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    serving = threading.Thread(target=server.run, daemon=True)  # in the main thread it would obey signals
    serving.start()
    while serving.is_alive():
        if select.select([sys.stdin], [], [], _SECONDS)[0] or os.getppid() != parent:
            ending = threading.Thread(target=_end_runs, args=(port, runs), daemon=True)
            ending.start()
            ending.join(_LONGEST_END)
            server.should_exit = True
            serving.join(_LONGEST_END)
            break
    os._exit(0 if server.started else _PORT_TAKEN)


def _end_runs(port: int, runs: set[str]) -> None:
    """Mark what a command has left Running as Crashed: it was killed, or had no more time."""
    if not runs:
        return
    import httpx

    user, _, password = os.environ["PREFECT_SERVER_API_AUTH_STRING"].partition(":")
    ours = {"id": {"any_": sorted(runs)}}
    which = {"task_runs": {"flow_runs": ours, "task_runs": _GOING_ON}, "flow_runs": {"flow_runs": ours | _GOING_ON}}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api", auth=(user, password), trust_env=False) as server:
        for kind, chosen in which.items():
            for run in server.post(f"/{kind}/filter", json=chosen).json():
                server.post(f"/{kind}/{run['id']}/set_state", json={"state": _CRASHED, "force": True})


if __name__ == "__main__":
    main()
