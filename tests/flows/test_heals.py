"""What is derived is verified when it is opened, and made again where it is torn. What is the truth is named."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from flows.classify_batch import classify_batch
from flows.nightly_retrain import nightly_retrain
from resnet_core.storage.files import DamagedFileError
from tests.conftest import write_folder

pytestmark = pytest.mark.usefixtures("prefect")

Digits = tuple[np.ndarray, list[str]]


@pytest.fixture
def home(store: Path, tmp_path: Path, digits: Digits) -> str:
    """A data set file of three digits; `store` is its store."""
    write_folder(tmp_path / "raw", digits, range(3), 200)
    content = {
        "name": "few",
        "source": str(tmp_path / "raw"),
        "image": {"size": 8},
        "model": {"arch": "resnet10", "width": 16},
        "train": {"epochs": 1, "batch_size": 32},
        "gate": {"minimum": 0.0},
    }
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(content))
    return str(tmp_path / "few.yaml")


def tear(folder: Path, pattern: str) -> list[Path]:
    """Cut every file to its half, each as a new one: shards share theirs with those of earlier nights."""
    files = [path for path in sorted(folder.glob(pattern)) if path.is_file()]
    for path in files:
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content[: len(content) // 2])
    return files


def catalog(store: Path) -> pd.DataFrame:
    rows = pd.read_parquet(store / "catalog/few/catalog.parquet")
    return rows.sort_values("uri")[["uri", "image_id", "label", "split", "status"]].reset_index(drop=True)


DERIVED = (
    "shards/few/*/*", "pixels/few/*/*", "runs/few/*/evaluation/metrics.json",
    "runs/few/*/explanation/gallery.json", "runs/few/*/epochs.json", "runs/few/*/model/*",
)  # fmt: skip


def test_derived_files_are_made_again_and_nothing_is_decided_anew(
    home: str, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, before = nightly_retrain(home), catalog(store)
    shards = {path.name: path.read_bytes() for path in store.glob("shards/few/*/*.parquet")}
    torn = {pattern: tear(store, pattern) for pattern in DERIVED}
    assert all(torn.values())
    with caplog.at_level("WARNING", logger="grayline"):
        second = nightly_retrain(home)
    assert second.version == first.version
    assert second.checkpoint
    assert not second.checkpoint.reused
    assert {path.name: path.read_bytes() for path in store.glob("shards/few/*/*.parquet")} == shards
    pd.testing.assert_frame_equal(catalog(store), before)
    for text in ("its files are read again", "the training in", "gallery.json is damaged"):
        assert text in caplog.text
    caplog.clear()
    third = nightly_retrain(home)
    assert third.checkpoint
    assert third.checkpoint.reused
    assert "damaged" not in caplog.text


def test_torn_rows_are_named_with_the_remedy_which_works(home: str, store: Path, tmp_path: Path) -> None:
    nightly_retrain(home)
    output, source = tmp_path / "out", str(tmp_path / "raw")
    classify_batch(source, str(output), "few@champion", engine="torch")
    rows = pd.read_parquet(output).sort_values("uri").reset_index(drop=True).drop(columns="scored_at")
    part = tear(output, "*.parquet")[0]
    with pytest.raises(DamagedFileError, match=r"Its rows are lost\. Delete it, and run the same") as error:
        classify_batch(source, str(output), "few@champion", engine="torch")
    assert str(part) in str(error.value)
    for path in output.glob("*.parquet"):
        path.unlink()
    classify_batch(source, str(output), "few@champion", engine="torch")
    again = pd.read_parquet(output).sort_values("uri").reset_index(drop=True).drop(columns="scored_at")
    pd.testing.assert_frame_equal(again, rows)
    tear(output, "_batch.json")
    with pytest.raises(DamagedFileError, match=r"It says whose rows these are\. Choose another --output"):
        classify_batch(source, str(output), "few@champion", engine="torch")
    assert json.loads((output / "_manifest.json").read_text())["files"] == 200
