"""The command in a process of its own, and a Ray cluster here. One of its two nodes may be killed."""

import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

BIN = Path(sys.executable).parent
NEEDS_RAY = pytest.mark.skipif(importlib.util.find_spec("prefect_ray") is None, reason="needs grayline[ray]")
# Two nodes on one machine take two addresses; only Linux has all of 127.0.0.0/8.
NEEDS_LOOPBACKS = pytest.mark.skipif(sys.platform != "linux", reason="needs 127.0.0.2 and 127.0.0.3")
OURS = ("GRAYLINE", "PREFECT", "MLFLOW", "RAY")
SECONDS = 180.0


def environment(**more: str) -> dict[str, str]:
    """This session's, less what is set for our libraries."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)} | more


def grayline(store: Path, *arguments: object, **env: str) -> "subprocess.Popen[str]":
    """The command, begun, with this store."""
    return subprocess.Popen(
        [BIN / "grayline", *map(str, arguments)],
        env=environment(GRAYLINE_STORE=str(store), **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> None:
    """It ends well."""
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors


def wait_until(condition: Callable[[], object]) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < SECONDS
        time.sleep(0.01)


@contextmanager
def two_nodes(gpus: int = 0, pinned: bool = False) -> Iterator[tuple[psutil.Popen, psutil.Popen, dict[str, str]]]:
    """A Ray cluster of two nodes with a processor each, and the variables of who is to use it. gpus: that each says it
    has, which need not be true. pinned: whether each node has a core to itself and cannot run on the other's."""
    port = free_port()
    # Ray listens on all interfaces. Without the token, whoever reaches this machine could run code here.
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_ADDRESS": f"127.0.0.2:{port}"}
    head = ("--head", f"--port={port}", f"--ray-client-server-port={free_port()}", "--include-dashboard=false")
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # Ray's sockets go there, and their paths must be short
    nodes: list[psutil.Popen] = []
    try:
        for ip, options in {"127.0.0.2": head, "127.0.0.3": (f"--address={env['RAY_ADDRESS']}",)}.items():
            node = (f"--node-ip-address={ip}", f"--temp-dir={folder / ip}", f"--num-gpus={gpus}")
            cores = ("taskset", "--cpu-list", str(len(nodes))) if pinned else ()
            nodes.append(start_node(*node, *options, within=cores, **env))
            wait_until(lambda: is_up(nodes[-1]))
        yield nodes[0], nodes[1], env
    finally:
        ended = [process for node in nodes for process in kill(node)]
        wait_until(lambda: all(is_gone(process) for process in ended))
        shutil.rmtree(folder)


def start_node(*options: str, within: Sequence[str] = (), **env: str) -> psutil.Popen:
    """`ray start`, which stays the parent of all processes of its node. within: a command that it is started by."""
    start = [str(BIN / "ray"), "start", "--block", "--num-cpus=1", "--object-store-memory=100000000"]
    return psutil.Popen(
        [*within, *start, *options],
        env=environment(RAY_USAGE_STATS_ENABLED="0", **env),
        cwd=tempfile.gettempdir(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def is_up(node: psutil.Popen) -> bool:
    line = node.stdout.readline()
    assert line, "ray start has ended"
    return "Ray runtime started" in line


def kill(node: psutil.Popen) -> list[psutil.Process]:
    """SIGKILL to all processes of the node, as when a machine fails."""
    ended = [node, *node.children(recursive=True)] if node.poll() is None else []
    for process in ended:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return ended


def command(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def is_gone(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
