"""Requests to the stack's servers, with the password."""

import base64
import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

_PATIENCE = 30  # seconds that a busy server may take
_TRIES = 10
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy is shown the password


@dataclass(frozen=True)
class Api:
    """Prefect's API. url: ends in `/api`. password: USER:PASSWORD."""

    url: str
    password: str

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Return the answer, from JSON. A body makes it a POST; 503 says that SQLite is busy. Raises OSError."""
        head = {"Content-Type": "application/json"}
        if self.password:
            head["Authorization"] = f"Basic {base64.b64encode(self.password.encode()).decode()}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, head, method=method)
        tried = 0
        while True:
            try:
                with _DIRECT.open(request, timeout=_PATIENCE) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:  # the server is starting
                tried += 1
                if error.code != 503 or tried == _TRIES:
                    raise
                time.sleep(1)

    def all(self, path: str, body: dict[str, Any]) -> list[Any]:
        """Return the rows of all pages of a filter."""
        rows: list[Any] = []
        while page := self.ask(path, body | {"limit": 200, "offset": len(rows)}):
            rows += page
        return rows
