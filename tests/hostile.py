"""A page of another origin, open in a browser beside `grayline up`. It tries all that it may with the two servers."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

PAGE = Path(__file__).with_suffix(".html")


@contextmanager
def hostile_page(prefect: str, mlflow: str, deployment: str, command: str) -> Iterator[int]:
    """Serve the page on a port of its own. deployment: id of the one that it tries to run `command` with."""
    run = f"/api/deployments/{deployment}/create_flow_run"
    page = PAGE.read_text() % {"prefect": prefect, "mlflow": mlflow, "run": run, "command": command}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


def ask(url: str, password: str, body: Any = None) -> Any:
    """The JSON that a server of the stack answers to its own user. password: with the user before it."""
    head = {
        "Content-Type": "application/json",
        "Authorization": f"Basic {base64.b64encode(password.encode()).decode()}",
    }
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data, head), timeout=30) as answer:
        return json.load(answer)
