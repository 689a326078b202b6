"""Policy: the places that input may name, and the most that unpacking it may cost.

The machine's settings decide (`tasks.settings`); without them the defaults hold. A reader process gets its parent's.
A chain of file systems (`reference::https://...`) is never opened: fsspec would run it.
"""

import ipaddress
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resnet_core.credentials import public
from resnet_core.errors import UserError

if TYPE_CHECKING:
    import aiohttp


@dataclass(frozen=True)
class Policy:
    """The settings of a machine's owner.

    protocols: of places. private_hosts: names, addresses or networks that https may reach, though they are private.
    manifest_roots: folders and URLs whose files tables may name, besides those under their own source.

    unpacked_bytes: of a container, such as an archive. ratio: of these to its own bytes. members: in it. seconds: for
    reading it. image_bytes: the most of a member that is unpacked at all. depth: brackets within brackets, in YAML
    and JSON.
    """

    protocols: Sequence[str] = ("file", "s3", "gs", "abfs", "https")
    private_hosts: Sequence[str] = ()
    manifest_roots: Sequence[str] = ()
    unpacked_bytes: int = 2**40
    ratio: float = 200.0
    image_bytes: int = 256 * 2**20
    members: int = 100_000_000
    depth: int = 100
    seconds: float = 3600.0


class OutOfReachError(UserError, PermissionError):
    """A place that the policy forbids. As an OSError it is the reason of a row."""


_FREE = 256 * 2**20  # unpacked bytes that no ratio forbids
_ALIASES = {"local": "file", "": "file", "s3a": "s3", "gcs": "gs", "abfss": "abfs", "az": "abfs", "adl": "abfs"}
_CHAIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*::")
_WRAPPED = ipaddress.ip_network("64:ff9b::/96")  # IPv4 behind NAT64
_deciders: list[Callable[[], Policy]] = [Policy]
_roots: ContextVar[tuple[str, ...]] = ContextVar("manifest_roots", default=())
_is_named: ContextVar[bool] = ContextVar("host is named", default=False)


def policy() -> Policy:
    """Return the policy of this process."""
    return _deciders[-1]()


def decide_by(decide: Callable[[], Policy]) -> None:
    """Take the policy from a function, which is called whenever it is needed."""
    _deciders[:] = [decide]


@contextmanager
def more_roots(roots: Sequence[str]) -> Iterator[None]:
    """Allow tables to name places under these roots, too, in the block."""
    token = _roots.set((*_roots.get(), *roots))
    try:
        yield
    finally:
        _roots.reset(token)


def manifest_roots() -> tuple[str, ...]:
    """Return the roots of the machine and those of the block."""
    return *policy().manifest_roots, *_roots.get()


class Budget:
    """The limits of a container while it is read. packed: its own bytes; below 0 if unknown."""

    def __init__(self, place: str, packed: int = -1) -> None:
        self._place, self._limits, self._spent = place, policy(), 0
        self._end = time.monotonic() + self._limits.seconds
        self._most = self._limits.unpacked_bytes
        self._setting = "GRAYLINE_MAX_UNPACKED_BYTES"
        if packed >= 0 and max(_FREE, self._limits.ratio * packed) < self._most:
            self._most, self._setting = int(max(_FREE, self._limits.ratio * packed)), "GRAYLINE_MAX_RATIO"

    def spend(self, count: int) -> None:
        """Count unpacked bytes. Raises UserError beyond a limit, and after its time."""
        self._spent += count
        if self._spent > self._most:
            raise UserError(
                f"{self._place}: unpacks to more than {self._most:,} bytes. Is it made to fill disks? Raise "
                f"{self._setting} if not."
            )
        if time.monotonic() > self._end:
            raise UserError(
                f"{self._place}: takes over {self._limits.seconds:g} s to unpack. Raise GRAYLINE_MAX_UNPACK_SECONDS if "
                "it is whole."
            )


def check_members(place: str, count: int) -> None:
    """Raise UserError for a container of too many files, rows or images."""
    if count > policy().members:
        raise UserError(
            f"{place}: holds more than {policy().members:,} files or rows. Raise GRAYLINE_MAX_MEMBERS if that is right."
        )


def parse_json(text: str | bytes) -> Any:
    """Parse JSON of others. Raises ValueError for what is none, and for brackets that are nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None


def check_protocol(place: str) -> None:
    """Raise OutOfReachError for a chain of file systems, and for a protocol that is not allowed."""
    place = public(place)
    if _CHAIN.match(place):
        raise OutOfReachError(f"{place}: file systems in a chain (`::`) are not opened. Name the file itself.")
    name, mark, _ = place.partition("://")
    protocol = name.lower() if mark else "file"
    allowed = policy().protocols
    if _ALIASES.get(protocol, protocol) not in [_ALIASES.get(name.lower(), name.lower()) for name in allowed]:
        raise OutOfReachError(
            f"{place}: the protocol {protocol!r} is not allowed. Name a place of {', '.join(allowed)}, or add it to "
            "GRAYLINE_ALLOWED_PROTOCOLS."
        )


def _is_private(address: str) -> bool:
    """Return whether an address is of this machine or of a network that the internet does not reach."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if ip in _WRAPPED:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return _is_private(str(inner))
    return not ip.is_global or ip.is_multicast


def is_named(name: str) -> bool:
    """Return whether the owner has named a host or an address that may be reached though it is private."""
    for allowed in policy().private_hosts:
        try:
            if ipaddress.ip_address(name.strip("[]")) in ipaddress.ip_network(allowed, strict=False):
                return True
        except ValueError:  # one of them is a name
            if name.lower().rstrip(".") == allowed.lower():
                return True
    return False


def check_host(host: str) -> None:
    """Raise OutOfReachError for a host of this machine or of a private network that nobody has named."""
    import socket

    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, None)} if host else set()
    except (OSError, UnicodeError):  # a token in a URL of Apprise's, or a name that nobody knows now
        return
    private = sorted(filter(_is_private, addresses))
    if private and not is_named(host) and not all(map(is_named, private)):
        raise OutOfReachError(f"{host} has a private address ({private[0]}). Name it in GRAYLINE_PRIVATE_HOSTS.")


async def guarded_client(**options: Any) -> "aiohttp.ClientSession":
    """Return a client for fsspec that holds every request to the policy, those after a redirect, too.

    The address is looked at when the connection is made: what a name resolved to before does not count.
    """
    import socket

    import aiohttp

    async def check(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        check_protocol(str(request.url))
        token = _is_named.set(is_named(request.url.host or ""))
        try:
            return await send(request)
        finally:
            _is_named.reset(token)

    def connect(info: Any) -> socket.socket:
        family, kind, number, _, address = info
        if _is_private(address[0]) and not _is_named.get() and not is_named(address[0]):
            raise OutOfReachError(
                f"{address[0]} is a private address. Name the host in GRAYLINE_PRIVATE_HOSTS if it may be reached."
            )
        return socket.socket(family, kind, number)

    connector = aiohttp.TCPConnector(socket_factory=connect)
    return aiohttp.ClientSession(**options, connector=connector, middlewares=(check,))
