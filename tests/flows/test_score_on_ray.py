"""A batch on a Ray cluster. The rows are those of threads, though a node of the cluster dies in the middle."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from prefect.settings import PREFECT_API_URL

from tasks.cluster import gpu_share
from tests.cluster import NEEDS_LOOPBACKS, NEEDS_RAY, finish, grayline, kill, two_nodes, wait_until
from tests.conftest import write_folder

PARTS = 8


def parts(output: Path) -> list[Path]:
    return list(output.glob("*.parquet"))


def rows(output: Path) -> pd.DataFrame:
    return pd.read_parquet(output).drop(columns=["scored_at"]).sort_values("uri").reset_index(drop=True)


@pytest.mark.heavy
@pytest.mark.e2e
@NEEDS_RAY
@NEEDS_LOOPBACKS
def test_a_cluster_that_loses_a_node_writes_the_same_rows(
    tmp_path: Path, digits: tuple[np.ndarray, list[str]], prefect: None
) -> None:
    write_folder(tmp_path / "raw", digits, range(10), 1500)
    content = {
        "name": "few",
        "source": str(tmp_path / "raw"),
        "image": {"size": 32},
        "model": {"arch": "resnet10", "width": 16},
        "train": {"epochs": 1},
        "gate": {"minimum": 0},
    }
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(content))
    store, url = tmp_path / "store", PREFECT_API_URL.value()
    finish(grayline(store, "retrain", "--dataset", tmp_path / "few.yaml", PREFECT_API_URL=url))
    batch = ("classify-batch", "--source", tmp_path / "raw", "--output")
    finish(grayline(store, *batch, tmp_path / "threads", PREFECT_API_URL=url))
    output = tmp_path / "ray"
    with two_nodes(gpus=1) as (_, second, env):
        process = grayline(store, *batch, output, GRAYLINE_RUNNER="ray", **env)
        wait_until(lambda: parts(output) or process.poll() is not None)
        kill(second)
        done = len(parts(output))
        finish(process)
    assert 0 < done < PARTS, "the node has died too late"
    assert len(rows(output)) == 1500
    pd.testing.assert_frame_equal(rows(output), rows(tmp_path / "threads"), atol=1e-5)


@pytest.mark.parametrize(
    ("resources", "device", "share"),
    [
        ({"CPU": 16.0}, "auto", 0.0),
        ({"CPU": 16.0, "GPU": 2.0}, "cpu", 0.0),
        ({"CPU": 16.0, "GPU": 2.0}, "auto", 0.125),
        ({"CPU": 2.0, "GPU": 2.0}, "cuda", 1.0),
        ({"CPU": 2.0, "GPU": 8.0}, "auto", 1.0),
    ],
)
def test_workers_share_the_cluster_s_gpus(resources: dict[str, float], device: str, share: float) -> None:
    assert gpu_share(resources, device) == share
