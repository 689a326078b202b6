"""A disk that fills up, and an object store behind a line that breaks, both on this machine."""

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest


class Line:
    """A TCP line to `port` on this machine that breaks once `budget` bytes have gone up."""

    def __init__(self, port: int) -> None:
        self.to = port
        self.budget = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:  # closed
                return
            if self.budget <= 0:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self.to))
            for one, other, counts in ((near, far, True), (far, near, False)):
                threading.Thread(target=self._pump, args=(one, other, counts), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket, counts: bool) -> None:
        try:
            while data := one.recv(16384):
                self.budget -= len(data) * counts
                if self.budget <= 0:
                    break
                other.sendall(data)
        except OSError:
            pass
        for end in (one, other):
            end.close()


@contextmanager
def object_store() -> Iterator[tuple[Line, dict[str, str], dict[str, Any]]]:
    """A bucket `store`, and the line to it. Then the environment that leads there over the line, and what fsspec has to
    know to go there directly.
    """
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install -e '.[s3]'")
    moto = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[server]'")
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    line = Line(server.get_host_and_port()[1])
    access = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
    access["AWS_MAX_ATTEMPTS"] = "1"  # a line that is broken stays so
    access["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{line.port}"
    address = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    direct = {"key": "testing", "secret": "testing", "endpoint_url": address, "use_listings_cache": False}
    try:
        # A process has one store, whatever servers it starts: what another test has left goes.
        with urlopen(Request(f"{address}/moto-api/reset", method="POST"), timeout=30):
            pass
        s3fs.S3FileSystem(**direct).mkdir("store")
        yield line, access, direct
    finally:
        line.listener.close()
        server.stop()


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of that size, as mount says it (`512k`), at a new folder."""
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
