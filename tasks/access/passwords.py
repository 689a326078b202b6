"""The way into the local stack: a user, a password in a file of its owner's. And who is shown it."""

import json
import os
import secrets
import stat
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from resnet_core.errors import UserError

USER = "grayline"
PREFECT_TOML = Path("prefect.toml")
OURS = "# Written by `make up`, removed by `make down`."
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SHORTEST = 12  # characters; MLflow refuses shorter ones


@dataclass(frozen=True)
class Access:
    """The passwords of the two servers, USER:PASSWORD.

    prefect_given, mlflow_given: the environment gave it; it is written to no file.
    """

    prefect: str
    mlflow: str
    prefect_given: bool = False
    mlflow_given: bool = False

    def client(self) -> dict[str, str]:
        """Return the variables by which Prefect's and MLflow's clients get in."""
        user, _, password = self.mlflow.partition(":")
        return {
            "PREFECT_API_AUTH_STRING": self.prefect,
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": password,
        }


def access_of(folder: Path, prefect: str | None, mlflow: tuple[str | None, str | None]) -> Access:
    """Return the passwords that were given, or the one in the stack's folder. Make it if it is needed and missing.

    prefect: USER:PASSWORD. mlflow: user and password. Raises UserError for one that a server would refuse.
    """
    user, password = mlflow
    if prefect is not None and not all(prefect.partition(":")[::2]):
        raise UserError("PREFECT_SERVER_API_AUTH_STRING: write USER:PASSWORD, or unset it: `grayline up` makes one.")
    if password is not None and len(password) < _SHORTEST:
        raise UserError(
            f"MLFLOW_TRACKING_PASSWORD: MLflow takes passwords of {_SHORTEST} characters and more. "
            "Give a longer one, or unset it: `grayline up` makes a password."
        )
    own = own_secret(folder / "password")
    ours = f"{USER}:{own}"
    both = f"{user or USER}:{password or own}"
    return Access(prefect or ours, both, prefect not in (None, ours), password not in (None, own))


def own_secret(file: Path, new: str | None = None) -> str:
    """Return what a file of ours holds; make it if it is missing, by default with random text.

    Others may never read it. Raises UserError if they may.
    """
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(new or secrets.token_urlsafe(24))
    except FileExistsError:  # an earlier `up` has made it
        status = file.stat()
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise UserError(
                f"{file}: others may know it. Run `grayline down`, remove it, and run `grayline up`."
            ) from None
    return file.read_text(encoding="utf-8").strip()


def note_addresses(folder: Path, addresses: dict[str, list[str]]) -> None:
    """Write where the stack's servers answer: only these are shown the password."""
    (folder / "addresses.json").write_text(json.dumps(addresses), encoding="utf-8")


def is_own_mlflow(folder: Path, address: str) -> bool:
    """Return whether the stack of this folder serves MLflow there."""
    try:
        return _is_one_of(
            address, json.loads((folder / "addresses.json").read_text(encoding="utf-8")).get("mlflow", ())
        )
    except (OSError, ValueError):  # without a stack, or its note is torn
        return False


def let_in(folder: Path, environ: MutableMapping[str, str]) -> None:
    """Set the clients' variables where they are not set and the server that is asked is the stack's own."""
    try:
        addresses: dict[str, Any] = json.loads((folder / "addresses.json").read_text(encoding="utf-8"))
        password = (folder / "password").read_text(encoding="utf-8").strip()
    except OSError:  # without a stack, nothing is let in
        addresses, password = {}, ""
    client = Access(f"{USER}:{password}", f"{USER}:{password}").client()
    prefect = environ.get("PREFECT_API_URL", "")
    if _is_one_of(prefect.removesuffix("/").removesuffix("/api"), addresses.get("prefect", ())):
        environ.setdefault("PREFECT_API_AUTH_STRING", client.pop("PREFECT_API_AUTH_STRING"))
    elif prefect and own_toml():
        environ.setdefault("PREFECT_API_AUTH_STRING", "")  # another server is not shown the password of prefect.toml
    known = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
    if _is_one_of(environ.get("MLFLOW_TRACKING_URI", ""), addresses.get("mlflow", ())) and not any(
        name in environ for name in known
    ):
        environ.update((name, value) for name, value in client.items() if name in known)


def own_toml() -> bool:
    """Return whether the prefect.toml of this folder is the one that `grayline up` writes."""
    try:
        return PREFECT_TOML.read_text(encoding="utf-8").startswith(OURS)
    except OSError:  # a file that cannot be read is not overwritten
        return False


def _is_one_of(address: str, addresses: list[str]) -> bool:
    return bool(address) and _spelt(address) in map(_spelt, addresses)


def _spelt(address: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port; the names of the loopback are one."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    return parts.scheme, _LOOPBACK[0] if host in _LOOPBACK else host, parts.port
