"""The same flow on threads, processes and a Ray cluster: the same shards, even when a node of it dies."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from prefect import flow, task
from prefect.settings import PREFECT_API_URL

from resnet_core.errors import UserError
from tasks import runner
from tasks.cluster import check_server
from tests.cluster import (
    NEEDS_LOOPBACKS,
    NEEDS_RAY,
    command,
    environment,
    finish,
    free_port,
    grayline,
    kill,
    two_nodes,
    wait_until,
)
from tests.conftest import write_folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, digits: tuple[np.ndarray, list[str]]) -> Path:
    """A data set file over 1,500 digits: eight parts, eight shards."""
    folder = tmp_path_factory.mktemp("source")
    write_folder(folder / "raw", digits, range(10), 1500)
    (folder / "few.yaml").write_text(f"name: few\nsource: {folder / 'raw'}\nimage: {{size: 32}}\n")
    return folder / "few.yaml"


def preprocess(dataset: Path, store: Path, **env: str) -> "subprocess.Popen[str]":
    return grayline(store, "preprocess", "--dataset", dataset, **env)


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


@pytest.mark.heavy
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


WITHOUT_RAY = "import sys; sys.modules['prefect_ray'] = None; from flows.cli.app import main; main()"


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
