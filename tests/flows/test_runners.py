"""The same flow on threads, processes and a Ray cluster: the same shards, even when a node of it dies."""

import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from prefect import flow, task
from prefect.settings import PREFECT_API_URL

from resnet_core.errors import UserError
from tasks import runner
from tasks.cluster import check_server
from tests.conftest import write_folder

BIN = Path(sys.executable).parent
NEEDS_RAY = pytest.mark.skipif(importlib.util.find_spec("prefect_ray") is None, reason="needs grayline[ray]")
# Two nodes on one machine take two addresses; only Linux has all of 127.0.0.0/8.
NEEDS_LOOPBACKS = pytest.mark.skipif(sys.platform != "linux", reason="needs 127.0.0.2 and 127.0.0.3")
OURS = ("GRAYLINE", "PREFECT", "MLFLOW", "RAY")
SECONDS = 180.0


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, digits: tuple[np.ndarray, list[str]]) -> Path:
    """A data set file over 1,500 digits: eight parts, eight shards."""
    folder = tmp_path_factory.mktemp("source")
    write_folder(folder / "raw", digits, range(10), 1500)
    (folder / "few.yaml").write_text(f"name: few\nsource: {folder / 'raw'}\nimage: {{size: 32}}\n")
    return folder / "few.yaml"


def environment(**more: str) -> dict[str, str]:
    """This session's, less what is set for our libraries."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)} | more


def preprocess(dataset: Path, store: Path, **env: str) -> "subprocess.Popen[str]":
    """`grayline preprocess`, begun."""
    return subprocess.Popen(
        [BIN / "grayline", "preprocess", "--dataset", dataset],
        env=environment(GRAYLINE_STORE=str(store), **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> None:
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors


def shards(store: Path) -> dict[str, bytes]:
    """What lies under shards/: paths and contents."""
    return {str(path.relative_to(store)): path.read_bytes() for path in (store / "shards").rglob("*.*")}


def parts(store: Path) -> list[Path]:
    """What has been read so far."""
    return list((store / "pixels").glob("*/*/*.parquet"))


@pytest.fixture(scope="module")
def expected(dataset: Path, tmp_path_factory: pytest.TempPathFactory, prefect: None) -> dict[str, bytes]:
    """The shards of a run on threads: eight, and the manifest."""
    store = tmp_path_factory.mktemp("threads")
    finish(preprocess(dataset, store, PREFECT_API_URL=PREFECT_API_URL.value()))
    found = shards(store)
    assert len(found) == len(parts(store)) + 1 == 9
    return found


@pytest.mark.e2e
def test_processes_make_the_same_shards(dataset: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    finish(preprocess(dataset, tmp_path, GRAYLINE_RUNNER="processes", PREFECT_API_URL=PREFECT_API_URL.value()))
    assert shards(tmp_path) == expected


@pytest.mark.e2e
@NEEDS_RAY
@NEEDS_LOOPBACKS
def test_a_ray_cluster_that_loses_a_node_makes_the_same_shards(
    dataset: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    with two_nodes() as (first, second, env):
        process = preprocess(dataset, tmp_path, GRAYLINE_RUNNER="ray", **env)
        wait_until(lambda: parts(tmp_path) or process.poll() is not None)
        kill(second)
        done = len(parts(tmp_path))
        assert not [child for child in first.children(recursive=True) if "uvicorn" in command(child)], "a second server"
        finish(process)
    assert 0 < done < 8, "the node has died too late"
    assert shards(tmp_path) == expected


def wait_until(condition: Callable[[], object]) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < SECONDS
        time.sleep(0.01)


@contextmanager
def two_nodes() -> Iterator[tuple[psutil.Popen, psutil.Popen, dict[str, str]]]:
    """A Ray cluster of two nodes with a processor each, and the variables of who is to use it."""
    port = free_port()
    # Ray listens on all interfaces. Without the token, whoever reaches this machine could run code here.
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_ADDRESS": f"127.0.0.2:{port}"}
    head = ("--head", f"--port={port}", f"--ray-client-server-port={free_port()}", "--include-dashboard=false")
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # Ray's sockets go there, and their paths must be short
    nodes: list[psutil.Popen] = []
    try:
        for ip, options in {"127.0.0.2": head, "127.0.0.3": (f"--address={env['RAY_ADDRESS']}",)}.items():
            nodes.append(start_node(f"--node-ip-address={ip}", f"--temp-dir={folder / ip}", *options, **env))
            wait_until(lambda: is_up(nodes[-1]))
        yield nodes[0], nodes[1], env
    finally:
        ended = [process for node in nodes for process in kill(node)]
        wait_until(lambda: all(is_gone(process) for process in ended))
        shutil.rmtree(folder)


def start_node(*options: str, **env: str) -> psutil.Popen:
    """`ray start`, which stays the parent of all processes of its node."""
    start = [str(BIN / "ray"), "start", "--block", "--num-cpus=1", "--num-gpus=0", "--object-store-memory=100000000"]
    return psutil.Popen(
        [*start, *options],
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


WITHOUT_RAY = "import sys; sys.modules['prefect_ray'] = None; from flows.cli import main; main()"


def test_without_ray_the_command_says_how_to_install_it(dataset: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY, "preprocess", "--dataset", dataset],
        env=environment(GRAYLINE_STORE=str(tmp_path), GRAYLINE_RUNNER="ray"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "grayline: GRAYLINE_RUNNER: Ray is not installed. Run `pip install 'grayline[ray]'`, or use threads."
    ]


@NEEDS_RAY
def test_without_a_cluster_the_command_says_how_to_start_one(dataset: Path, tmp_path: Path) -> None:
    process = preprocess(dataset, tmp_path, GRAYLINE_RUNNER="ray", RAY_ADDRESS=f"127.0.0.1:{free_port()}")
    _, errors = process.communicate(timeout=90)  # Ray alone tries for two minutes
    assert process.returncode == 2
    (line,) = errors.splitlines()
    assert "Connection refused" in line
    assert "ray start --head" in line


@pytest.mark.parametrize(
    ("url", "nodes"),
    [
        (None, ["10.0.0.1"]),
        (None, ["127.0.0.2", "127.0.0.3"]),
        ("http://10.0.0.1:4200/api", ["10.0.0.1", "10.0.0.2"]),
        ("https://prefect.example.org/api", ["10.0.0.2"]),
    ],
)
def test_a_prefect_server_that_all_nodes_reach(url: str | None, nodes: list[str]) -> None:
    check_server(url, nodes, "10.0.0.1")


@pytest.mark.parametrize(
    "url", [None, "http://127.0.0.1:4200/api", "http://localhost:4200/api", "http://[::1]:4200/api"]
)
def test_a_prefect_server_that_other_machines_cannot_reach(url: str | None) -> None:
    with pytest.raises(UserError, match=r"node 10\.0\.0\.2 cannot reach"):
        check_server(url, ["10.0.0.1", "10.0.0.2"], "10.0.0.1")


@task
def halve(number: int) -> int:
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number // 2


@flow
def halves(numbers: list[int]) -> int:
    return runner.fan_out("halve", halve.submit, numbers, sum(numbers) // 2)


def test_all_work_is_done_however_much_waits(prefect: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MOST_WAITING", 3)
    assert halves(list(range(0, 20, 2))) == 45
    assert halves([]) == 0
    with pytest.raises(ValueError, match="7 is odd"):
        halves([2, 4, 6, 7, 8])
