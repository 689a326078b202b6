"""The servers' door: requests of foreign pages and for foreign hosts end here, before Prefect or MLflow sees them.

A browser sends a page's requests to any address of this machine, with the password that it knows for it. Prefect
takes every origin and host; MLflow takes every origin on this machine. So both run behind this door, which knows its
own names alone. Browsers say where a request comes from (Origin, https://www.w3.org/TR/fetch-metadata/).
"""

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tasks.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_OWN = ("127.0.0.1", "localhost", "[::1]")
# Prefect's pages send what a person does in them to amplitude.com. With this the browser asks no other server, and
# shows the pages in no frame of another site (https://www.w3.org/TR/CSP3/).
_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'self'; form-action 'self'; "
    "base-uri 'self'; object-src 'none'"
)


def own_origins(port: int, public: str | None) -> list[str]:
    """Return the origins of a server: this machine's names with its port, and its public address if there is one."""
    return [f"http://{host}:{port}" for host in _OWN] + ([public.rstrip("/")] if public else [])


class Guard:
    """An ASGI application that refuses what its own pages and programs do not ask."""

    def __init__(self, app: "ASGIApp", origins: list[str]) -> None:
        self._app, self._origins = app, frozenset(origins)
        self._hosts = frozenset(urlsplit(origin).netloc for origin in origins)

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass a request on, or answer 403; refuse a web socket."""
        reason = self.refusal(scope) if scope["type"] in ("http", "websocket") else None
        if reason is None:
            await self._app(scope, receive, _with_policy(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
        else:
            head = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": head})
            await send({"type": "http.response.body", "body": f"{reason}\n".encode()})

    def refusal(self, scope: "Scope") -> str | None:
        """Return why a request is refused; None if it is not."""
        head: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            head.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts, origins = head.get("host", []), head.get("origin", [])
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return f"This server does not answer as {', '.join(hosts) or 'a host without a name'}."
        if any(origin not in self._origins for origin in origins):
            return f"Pages of {', '.join(origins)} may not ask this server."
        if head.get("sec-fetch-site", ["none"])[0] in ("same-origin", "none") or _opens_a_page(scope, head):
            return None
        return "Pages of other sites may not ask this server."


def _with_policy(send: "Send") -> "Send":
    """Return a `send` that adds the policy to the head of each answer."""

    async def sending(message: "Message") -> None:
        if message["type"] == "http.response.start":
            policy = (b"content-security-policy", _POLICY.encode())
            message = {**message, "headers": [*message.get("headers", []), policy]}
        await send(message)

    return sending


def _opens_a_page(scope: "Scope", head: dict[str, list[str]]) -> bool:
    """Return whether a link is followed: the browser shows the answer, and no page of another site can read it."""
    kind = head.get("sec-fetch-mode", [""])[0], head.get("sec-fetch-dest", [""])[0]
    return scope["type"] == "http" and scope["method"] == "GET" and kind == ("navigate", "document")


def prefect_app() -> "ASGIApp":
    """Return Prefect's server behind the door, for uvicorn."""
    from prefect.server.api.server import create_app

    settings = Settings()
    return Guard(create_app(final=True), own_origins(settings.prefect_port, settings.prefect_public))


def mlflow_app() -> Any:
    """Return MLflow's server with its users behind the door: the app `grayline` of `mlflow server --app-name`."""
    from mlflow.server.auth import auth_config, create_app, store

    settings = Settings()
    app = create_app()
    user, password = auth_config.admin_username or "", auth_config.admin_password or ""
    if not store.authenticate_user(user, password):  # the password is another than at the last start
        store.update_user(user, password=password, is_admin=True)
    return Guard(app, own_origins(settings.mlflow_port, settings.mlflow_public))
