"""The temporary Prefect server of a command: it outlives signals to the command, and never the command itself.

Prefect starts it in the command's process group: Ctrl-C ends it before the command has reported the end of its
runs. A command that was killed left it behind. It is run as a script, and imports nothing of the project.
"""

import os
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

    config = uvicorn.Config(
        "prefect.server.api.server:create_app", factory=True, host="127.0.0.1", port=port, log_level="error",
        lifespan="on", timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    serving = threading.Thread(target=server.run, daemon=True)  # in the main thread it would obey signals
    serving.start()
    while serving.is_alive():
        if select.select([sys.stdin], [], [], _SECONDS)[0] or os.getppid() != parent:
            server.should_exit = True
            serving.join(_LONGEST_END)
            break
    os._exit(0 if server.started else _PORT_TAKEN)


if __name__ == "__main__":
    main()
