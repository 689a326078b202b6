"""The servers' door: a page of another site, a name that is not the server's, and what programs send."""

import asyncio
from typing import Any

import pytest

from flows.stack.guard import Guard, own_origins

OWN = own_origins(4200, None)
LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


async def _let_in(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "let in"})


def ask(method: str = "GET", kind: str = "http", origins: list[str] = OWN, **head: str) -> str:
    """What the door does with a request: `let in`, a status, or the end of a web socket."""
    headers = [(b"host", b"127.0.0.1:4200")] if "Host" not in head else []
    headers += [(name.replace("_", "-").lower().encode(), value.encode()) for name, value in head.items()]
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": kind, "method": method, "path": "/", "headers": headers}
    asyncio.run(Guard(_let_in, origins)(scope, None, send))  # type: ignore[arg-type]
    return str(sent[0].get("status", sent[0]["type"]))


@pytest.mark.parametrize("host", ["127.0.0.1:4200", "localhost:4200", "[::1]:4200"])
def test_programs_and_the_servers_own_pages_are_let_in(host: str) -> None:
    assert ask(Host=host) == "let in"
    assert ask("POST", Host=host, Origin=f"http://{host}", Sec_Fetch_Site="same-origin") == "let in"
    assert ask(kind="websocket", Host=host, Origin=f"http://{host}") == "let in"
    assert ask(Sec_Fetch_Site="none", Sec_Fetch_Mode="navigate") == "let in"  # an address that a person types


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:4200", "127.0.0.1", "127.0.0.1:5000", "127.0.0.1:4200.evil.example", "", "*"]
)
def test_a_name_that_is_not_the_servers_is_refused(host: str) -> None:
    """A page whose name is made to point to this machine has its own name as Host (DNS rebinding)."""
    assert ask(Host=host) == "403"
    assert ask("POST", Host=host, Origin=f"http://{host}", Sec_Fetch_Site="same-origin") == "403"
    assert ask(kind="websocket", Host=host) == "websocket.close"


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:8888", "https://127.0.0.1:4200", "http://localhost", ""]
)
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE", "OPTIONS"])
def test_a_page_of_another_origin_is_refused(origin: str, method: str) -> None:
    assert ask(method, Origin=origin) == "403"
    assert ask(method, Origin=origin, Sec_Fetch_Site="cross-site") == "403"


def test_a_web_socket_of_another_origin_is_refused() -> None:
    assert ask(kind="websocket", Origin="http://evil.example") == "websocket.close"


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_of_another_site_only_a_link_is_followed(site: str) -> None:
    """An image, a script, a form or a frame is sent without Origin, with the password that the browser has."""
    link = {name.replace("-", "_"): value for name, value in LINK.items()} | {"Sec_Fetch_Site": site}
    assert ask(**link) == "let in"
    assert ask("POST", **link) == "403"
    assert ask(**link | {"Sec_Fetch_Dest": "iframe"}) == "403"
    assert ask(**link | {"Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"}) == "403"
    assert ask(kind="websocket", **link) == "websocket.close"


def test_pages_may_ask_no_other_server_and_stand_in_no_frame() -> None:
    sent: list[dict[str, Any]] = []

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": b"page"})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"localhost:4200")]}
    asyncio.run(Guard(answer, OWN)(scope, None, send))  # type: ignore[arg-type]
    (first, (name, policy)), body = sent[0]["headers"], sent[1]
    assert (first, name, body["body"]) == ((b"x", b"y"), b"content-security-policy", b"page")
    rules = dict(rule.split(None, 1) for rule in policy.decode().split("; "))
    assert rules["frame-ancestors"] == "'self'"
    assert "http" not in rules["default-src"]
    assert "*" not in policy.decode()


def test_a_public_address_is_one_more_name() -> None:
    public = own_origins(4200, "https://prefect.example.com/")
    at_home = {"Host": "prefect.example.com", "Origin": "https://prefect.example.com"}
    assert ask("POST", origins=public, **at_home) == "let in"
    assert ask("POST", **at_home) == "403"
    assert ask("POST", origins=public, **at_home | {"Origin": "http://prefect.example.com"}) == "403"
