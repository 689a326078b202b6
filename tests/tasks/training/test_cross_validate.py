"""Cross-validation: every training image is predicted once, by a classifier that has not seen it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from mlflow.tracking import MlflowClient

from flows.cross_validate import cross_validate
from resnet_core.errors import UserError
from tasks.settings import Settings
from tasks.training import cross_validate as stage
from tests.conftest import write_folder, write_labels

pytestmark = pytest.mark.usefixtures("prefect")

Digits = tuple[np.ndarray, list[str]]


@pytest.fixture
def dataset(store: Path, tmp_path: Path, digits: Digits) -> Path:
    """240 digits of three classes, written by 40 people."""
    folder = write_folder(tmp_path / "raw", digits, range(3), 240)
    rows = [
        {"path": str(path.relative_to(folder)), "label": path.parent.name, "group": f"writer-{k % 40}"}
        for k, path in enumerate(sorted(folder.rglob("*.png")))
    ]
    write_labels(tmp_path / "labels.csv", rows)
    content = {
        "name": "few",
        "source": str(folder),
        "labels": str(tmp_path / "labels.csv"),
        "image": {"size": 8},
        "model": {"arch": "resnet10", "width": 16},
        "train": {
            "epochs": 6,
            "batch_size": 16,
            "optimizer": "sgd",
            "lr": 0.1,
            "ema_decay": 0.8,
            "augment": {"flips": "none"},
        },
    }
    path = tmp_path / "few.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def mlflow() -> MlflowClient:
    return MlflowClient(Settings().tracking_uri)


def test_every_training_image_is_predicted_once_and_no_group_is_divided(dataset: Path, store: Path) -> None:
    found = cross_validate(str(dataset), 3)
    rows = pd.read_parquet(found.predictions.path)
    assert list(rows.columns) == ["image_id", "uri", "label", "fold", "predicted", "confidence", "probabilities"]
    catalog = pd.read_parquet(store / "catalog" / "few").set_index("image_id")
    assert sorted(rows["image_id"]) == sorted(catalog.index[catalog["split"] == "train"])
    assert (rows["uri"].to_numpy() == catalog.loc[rows["image_id"], "uri"].to_numpy()).all()
    assert (rows["label"].to_numpy() == catalog.loc[rows["image_id"], "label"].to_numpy()).all()
    assert rows.groupby(catalog.loc[rows["image_id"], "group"].to_numpy())["fold"].nunique().max() == 1
    assert rows["fold"].value_counts().between(40, 80).all()

    classes = json.loads(pq.read_schema(found.predictions.path).metadata[b"grayline"])["classes"]
    probabilities = np.stack(rows["probabilities"].to_numpy())
    assert (np.array(classes)[probabilities.argmax(1)] == rows["predicted"]).all()
    np.testing.assert_allclose(probabilities.max(1), rows["confidence"])
    right = rows["predicted"] == rows["label"]
    accuracies = right.groupby(rows["fold"]).mean()
    assert accuracies.min() > 0.8
    assert found.metrics["accuracy"] == pytest.approx((accuracies.mean(), accuracies.std()))

    run = mlflow().get_run(found.mlflow_run_id)
    assert run.data.metrics["accuracy_mean"] == pytest.approx(accuracies.mean())
    nested = mlflow().search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    assert {child.data.params["fold"]: child.info.status for child in nested} == dict.fromkeys("012", "FINISHED")
    assert {file.path for file in mlflow().list_artifacts(run.info.run_id)} >= {"out_of_fold.parquet"}


def test_folds_that_are_done_are_found_again_and_a_killed_one_goes_on(
    dataset: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stage.tracking.log_epochs
    epochs: list[int] = []

    def kill(tracking_uri: str, run_id: str, new: list[object]) -> None:
        whole(tracking_uri, run_id, new)  # type: ignore[arg-type]
        if len(new) == 1:
            epochs.append(new[0].epoch)  # type: ignore[attr-defined]
        if len(epochs) == 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(stage.tracking, "log_epochs", kill)
    with pytest.raises(BaseException):  # noqa: B017, PT011
        cross_validate(str(dataset), 3)
    found = cross_validate(str(dataset), 3)
    assert found.reused == 1
    assert epochs == [*range(1, 7)] * 3
    again = cross_validate(str(dataset), 3)
    assert again.reused == 3
    assert again.metrics == found.metrics
    assert len(epochs) == 18
    assert not list(store.glob("runs/few/*/*.safetensors"))


@pytest.mark.parametrize(("folds", "message"), [(1, "--folds: 1 is too few"), (50, "--folds: 50 folds of .* parts")])
def test_folds_that_cannot_be_are_the_users_error(dataset: Path, folds: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        cross_validate(str(dataset), folds)
