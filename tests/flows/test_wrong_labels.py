"""Label issues through the flow: wrong labels on real images, the table that lists them, and its way back."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient
from PIL import Image

from flows.label_issues import label_issues
from tasks.dataset import load_dataset
from tasks.settings import Settings
from tasks.training.label_issues import FIRST, labels_table, table_of
from tests.conftest import write_folder, write_labels

pytestmark = pytest.mark.usefixtures("prefect")

Digits = tuple[np.ndarray, list[str]]
WRONG = 8


@pytest.fixture
def dataset(store: Path, tmp_path: Path, digits: Digits) -> tuple[Path, set[str]]:
    """300 digits of three classes, of which eight training images have another label."""
    folder = write_folder(tmp_path / "raw", digits, range(3), 300)
    paths = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))
    wrong = set(paths[:: len(paths) // WRONG][:WRONG])
    rows = []
    for k, path in enumerate(paths):
        label = int(path[0])
        rows.append(
            {
                "path": path,
                "label": str((label + 1) % 3 if path in wrong else label),
                "split": "test" if k % 5 == 4 and path not in wrong else "train",
            }
        )
    content = {
        "name": "few",
        "source": str(folder),
        "labels": str(write_labels(tmp_path / "labels.csv", rows)),
        "image": {"size": 8},
        "model": {"arch": "resnet10", "width": 16},
        "train": {"epochs": 24, "batch_size": 32, "optimizer": "sgd", "lr": 0.1, "augment": {"flips": "none"}},
    }
    path = tmp_path / "few.yaml"
    path.write_text(yaml.safe_dump(content))
    return path, wrong


def test_wrong_labels_are_listed_first_and_the_corrected_table_is_a_labels_file(
    dataset: tuple[Path, set[str]],
) -> None:
    path, wrong = dataset
    found = label_issues(str(path), 3)
    assert found.images == sum(row.endswith(",train") for row in path.with_name("labels.csv").read_text().split())
    with found.table.open("rb") as file:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    assert list(table.columns[: len(FIRST)]) == list(FIRST)
    assert len(table) == 300
    assert table["rank"].tolist()[: found.issues] == [str(k + 1) for k in range(found.issues)]
    assert set(table["rank"].tolist()[found.issues :]) == {""}
    listed = table[: found.issues]
    assert len(wrong & set(listed["path"])) >= WRONG - 1
    caught = listed[listed["path"].isin(wrong)]
    assert (caught["suggested"] == caught["path"].str[0]).mean() > 0.8
    assert found.sheet is not None
    with found.sheet.open("rb") as file:
        assert Image.open(file).size[0] > 300
    files = MlflowClient(Settings().tracking_uri).list_artifacts(found.mlflow_run_id, "label_issues")
    assert {Path(file.path).name for file in files} == {"issues.csv", "issues.png"}

    corrected = path.with_name("corrected.csv")
    table["label"] = table["path"].str[0]
    table.to_csv(corrected, index=False)
    content = yaml.safe_load(path.read_text()) | {"labels": str(corrected)}
    path.write_text(yaml.safe_dump(content))
    again = labels_table(load_dataset(path))
    assert again["label"].tolist() == [name[0] for name in again["path"]]
    assert all(again["uri"])


def test_of_a_corrected_image_the_table_says_the_label_that_was_learned_from() -> None:
    labels = pd.DataFrame({"path": ["a", "b"], "label": ["1", "2"], "uri": ["/a", "/b"]})
    suspect = {"uri": "/b", "given": "3", "suggested": "2", "self_confidence": 0.01, "rank": 1}
    table = table_of(pd.DataFrame([suspect]), labels)
    assert table[["path", "label", "suggested"]].to_numpy().tolist() == [["b", "3", "2"], ["a", "1", ""]]
