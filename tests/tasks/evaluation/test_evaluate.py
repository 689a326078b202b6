"""The evaluation of a network that was trained on one camera's digits, and meets another one's."""

import json
import os
import shutil
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from PIL import Image
from prefect import flow
from prefect.client.orchestration import get_client
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.images.decode import decode
from resnet_core.model.classifier import Classifier
from resnet_core.shards.format import read
from tasks.dataset import Dataset, EvaluateConfig
from tasks.evaluation import evaluate as stage
from tasks.registry.runs import client
from tasks.training.train import train
from tasks.values import Catalog, Checkpoint, DataReport, Evaluation, Night, ShardSet
from tests.conftest import write_labels
from tests.places import a_workspace
from tests.tasks.ingest.test_ingest import dataset_of, ingested, sharded

Digits = tuple[np.ndarray, list[str]]
WANTED = {"slices": ["camera", "lens", "width"], "coverage": 0.9, "costs": {"missed_3": 5}, "recall": {"1": 0.98}}


def write_cells(folder: Path, digits: Digits, epochs: int, validation: int = 0) -> Dataset:
    """720 digits of four classes. Two of three are camera a's and learned. Of the others, held out, every third
    is camera b's, which is out of focus and noisy. Ten images in a row are one person's."""
    rng, rows = np.random.default_rng(0), []
    images, labels = digits
    kept = [k for k, label in enumerate(labels) if label in "0123"][:720]
    for place, k in enumerate(kept):
        person, path = place // 10, folder / "raw" / f"{place:04}.png"
        split = "test" if person % 3 == 0 else "validation" if validation and person % validation == 1 else "train"
        camera, pixels = "a", images[k]
        if split == "test" and place % 3 == 0:
            camera, pixels = "b", (0.4 * pixels + rng.normal(90, 60, pixels.shape)).clip(0, 255).astype(np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        rows.append(
            {"path": path.name, "label": labels[k], "split": split, "group": f"person {person}", "camera": camera,
             "lens": "0.10" if place % 2 else ""}
        )  # fmt: skip
    write_labels(folder / "labels.csv", rows)
    return dataset_of(
        folder / "raw",
        labels=str(folder / "labels.csv"),
        split={"near_duplicates": False},
        model={"arch": "resnet10", "width": 16},
        train={"epochs": epochs, "batch_size": 32, "optimizer": "sgd", "lr": 0.1, "augment": {"flips": "none"}},
        evaluate=WANTED,
    )


class Case:
    """A trained network and all that the stage is given."""

    def __init__(self, folder: Path, digits: Digits, epochs: int = 8, validation: int = 0) -> None:
        self.dataset = write_cells(folder, digits, epochs, validation)
        self.store = UPath(folder / "store")
        self.tracking_uri = f"sqlite:///{folder}/mlflow.db"
        self.shard_set: ShardSet = sharded(self.dataset, self.store)
        self.catalog: Catalog = ingested(self.dataset, self.store)[0]
        self.here = a_workspace(self.store, self.tracking_uri)
        self.night = Night(self.catalog, DataReport(self.store, ()), self.shard_set)
        self.checkpoint: Checkpoint = train.fn(self.night, self.dataset, self.here)

    def evaluate(self, reused: bool = False, catalog: Catalog | None = None, **changes: Any) -> Evaluation:
        """As the flow calls it, in a flow."""
        config = EvaluateConfig.model_validate({**WANTED, **changes})

        @flow(name="evaluate-alone")
        def alone() -> Evaluation:
            checkpoint = replace(self.checkpoint, reused=reused)
            night = self.night.with_(catalog=catalog or self.catalog, checkpoint=checkpoint)
            return stage.evaluate(night, self.dataset.model_copy(update={"evaluate": config}), self.here)

        return alone()

    def file(self, name: str) -> Path:
        return Path(self.checkpoint.folder.path) / "evaluation" / name

    @property
    def metrics(self) -> dict[str, Any]:
        return json.loads(self.file("metrics.json").read_text())


@pytest.fixture(scope="module")
def case(prefect: None, tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Case:
    return Case(tmp_path_factory.mktemp("case"), digits)


@pytest.fixture(scope="module")
def evaluation(case: Case) -> Evaluation:
    return case.evaluate()


@pytest.fixture
def as_trained(case: Case) -> Iterator[Evaluation]:
    """The evaluation without wishes: how much they move the decisions differs by processor, as the training does."""
    yield case.evaluate(costs={}, recall={})
    case.evaluate()


def test_the_camera_that_training_has_not_seen_is_named(
    case: Case, as_trained: Evaluation, caplog: pytest.LogCaptureFixture
) -> None:
    evaluation = as_trained
    assert evaluation.worse[0] == "camera b"
    rows = {(row["column"], row["value"]): row for row in case.metrics["slices"]}
    other, ours = rows["camera", "b"], rows["camera", "a"]
    assert (other["images"], ours["images"]) == (96, 144)
    assert other["accuracy"]["value"] < 0.8 < 0.95 < ours["accuracy"]["value"]
    assert (other["worse"], ours["worse"]) == (True, False)
    assert other["p"] < 0.05
    assert other["rest"] == ours["accuracy"]["value"]
    assert {value for column, value in rows if column == "lens"} == {"(none)", "0.1"}
    assert "width" not in {column for column, _ in rows}  # the same everywhere
    run = client(case.tracking_uri).get_run(case.checkpoint.mlflow_run_id)
    assert run.data.tags["grayline.worse_slices"] == ", ".join(evaluation.worse)
    table = duckdb.sql(f"select * from '{case.file('slices.parquet')}' where worse").df()
    assert table[["column", "value", "images"]].to_numpy().tolist()[0] == ["camera", "b", 96]


def test_what_the_metrics_hold(case: Case, evaluation: Evaluation) -> None:
    found, rows = case.metrics, pd.read_parquet(case.file("predictions.parquet"))
    assert (found["images"], found["groups"], evaluation.count) == (240, 24, 240)
    assert set(found["metrics"]) == set(evaluation.metrics) >= {"accuracy", "nll", "brier", "calibration_error"}
    # Metrics are those of the decisions in a batch, by weights that have not seen the image.
    assert found["metrics"]["accuracy"]["value"] == pytest.approx(found["decisions"]["accuracy"]["value"])
    # By the weights that a version gets, all images have class 1's recall as wanted, which costs accuracy.
    ones = rows[rows["label"] == "1"]
    assert (ones["decided"] == "1").mean() >= 0.98
    assert (rows["decided"] == rows["label"]).mean() < (rows["predicted"] == rows["label"]).mean()
    assert set(found["uncalibrated"]) == {"calibration_error", "nll", "brier"}
    assert found["calibration"] == json.loads(case.file("calibration.json").read_text())
    assert (found["calibration"]["fitted_on"], found["calibration"]["images"]) == ("held-out, crosswise", 240)
    assert found["coverage"]["wanted"] == 0.9
    assert found["coverage"]["found"]["value"] > 0.84
    assert found["decisions"]["recall"]["1"]["wanted"] == 0.98
    assert found["decisions"]["recall"]["1"]["value"] > 0.93
    assert found["decisions"]["cost"]["value"] > 0
    assert [size["side"] for size in found["sizes"]] == [4, 6, 8, 12, 16]
    assert found["sizes"][2]["accuracy"] > max(size["accuracy"] for size in found["sizes"] if size["side"] != 8)
    text = case.file("metrics.json").read_text()
    assert "NaN" not in text


def test_without_wishes_the_metrics_are_those_of_the_predictions(case: Case, as_trained: Evaluation) -> None:
    rows = pd.read_parquet(case.file("predictions.parquet"))
    assert rows["decided"].tolist() == rows["predicted"].tolist()
    right = (rows["predicted"] == rows["label"]).mean()
    assert as_trained.metrics["accuracy"].value == pytest.approx(right, abs=1e-9)


def test_predictions_are_of_the_held_out_images_in_the_order_of_the_shards(case: Case, evaluation: Evaluation) -> None:
    rows = pd.read_parquet(case.file("predictions.parquet"))
    assert list(rows.columns) == [
        "image_id", "uri", "label", "predicted", "confidence", "probabilities", "decided", "prediction_set",
        "needs_review", "novelty", "unknown", "look_alike",
    ]  # fmt: skip
    shard = read(case.shard_set.files, "test", case.shard_set.classes)
    assert rows["image_id"].tolist() == shard.image_ids.tolist()
    catalog = pd.read_parquet(case.catalog.path.path).set_index("image_id")
    assert rows["uri"].tolist() == catalog.loc[rows["image_id"], "uri"].tolist()
    assert rows["label"].tolist() == catalog.loc[rows["image_id"], "label"].tolist()
    assert rows["unknown"].tolist() == (rows["novelty"] < np.float32(0.05)).tolist()
    assert rows["needs_review"].tolist() == [
        len(plausible) != 1 or unknown
        for plausible, unknown in zip(rows["prediction_set"], rows["unknown"], strict=True)
    ]
    assert 0.02 < rows["needs_review"].mean() < 0.6
    assert (rows["decided"] != rows["predicted"]).any()


def test_scoring_says_the_same_of_the_same_pixels(case: Case, evaluation: Evaluation, tmp_path: Path) -> None:
    """With the calibration beside the weights, as a registered version has it, from the files themselves."""
    shutil.copytree(Path(case.checkpoint.folder.path) / "model", tmp_path / "model")
    for name in ("calibration.json", "novelty.safetensors"):
        shutil.copy(case.file(name), tmp_path / "model")
    trained = Classifier.load(tmp_path / "model", "cpu")
    rows = pd.read_parquet(case.file("predictions.parquet"))
    scored = trained.predict([decode(Path(uri).read_bytes()) for uri in rows["uri"]])
    np.testing.assert_allclose([p.probabilities for p in scored], np.stack(rows["probabilities"]), atol=1e-5)
    assert [p.label for p in scored] == rows["decided"].tolist()
    assert [list(p.prediction_set or ()) for p in scored] == [list(each) for each in rows["prediction_set"]]
    assert [p.needs_review for p in scored] == rows["needs_review"].tolist()
    np.testing.assert_allclose([p.novelty for p in scored], rows["novelty"], atol=0.02)  # a rank or two, by rounding
    assert [p.unknown for p in scored] == rows["unknown"].tolist()
    assert trained.novelty is not None
    assert len(trained.novelty.held_out) == len(rows)
    assert 0 < rows["unknown"].mean() <= 0.05
    assert 0 < case.metrics["unknown"]["found"]["value"] < 0.12
    pixels = read(case.shard_set.files, "test", trained.classes).pixels
    raw = Classifier.load(Path(case.checkpoint.folder.path) / "model", "cpu").probabilities(pixels)
    np.testing.assert_allclose(trained.calibration.calibrated(raw), np.stack(rows["probabilities"]), atol=1e-5)
    # How far from 1 the temperature comes, if at all, is the training's matter; that it is read and used is not.
    other = replace(trained.calibration, temperature=1.5)
    other.save(tmp_path / "model")
    scored_by_other = Classifier.load(tmp_path / "model", "cpu").probabilities(pixels)
    assert np.abs(scored_by_other - raw).max() > 0.01
    np.testing.assert_allclose(scored_by_other, other.calibrated(raw), atol=1e-5)


def test_what_mlflow_and_prefect_have(case: Case, evaluation: Evaluation) -> None:
    mlflow = MlflowClient(case.tracking_uri)
    run = mlflow.get_run(case.checkpoint.mlflow_run_id)
    files = {Path(file.path).name for file in mlflow.list_artifacts(run.info.run_id, "evaluation")}
    pictures = {f"{name}.png" for name in ("reliability", "slices", "sizes", "coverage", "confusion_matrix")}
    assert pictures | {"metrics.json", "predictions.parquet", "calibration.json", "slices.parquet"} <= files
    metrics = case.metrics
    assert run.data.metrics["test_nll"] == pytest.approx(metrics["metrics"]["nll"]["value"])
    assert run.data.metrics["test_nll_uncalibrated"] == pytest.approx(metrics["uncalibrated"]["nll"]["value"])
    assert run.data.metrics["temperature"] == pytest.approx(metrics["calibration"]["temperature"])
    assert run.data.metrics["test_coverage"] == pytest.approx(metrics["coverage"]["found"]["value"])
    with get_client(sync_client=True) as api:
        page = max(
            (a for a in api.read_artifacts() if a.key == "evaluation"),
            key=lambda artifact: artifact.created,
        )
    assert "drawn by their 24 groups" in page.data
    assert "Significantly worse than the rest: camera b" in page.data
    for heading in ("Calibration", "Prediction sets", "Unknown images", "Decisions", "Slices", "Other input sizes"):
        assert f"\n## {heading}\n" in page.data


def test_only_what_has_changed_is_measured_again(case: Case, evaluation: Evaluation, tmp_path: Path) -> None:
    before = os.stat(case.file("metrics.json")).st_mtime_ns
    assert case.evaluate(reused=True) == evaluation
    assert os.stat(case.file("metrics.json")).st_mtime_ns == before

    other = copy(case)
    shutil.copytree(case.checkpoint.folder.path, tmp_path / "run")
    other.checkpoint = replace(case.checkpoint, folder=UPath(tmp_path / "run"))
    other.evaluate(reused=True, coverage=0.8)
    assert other.metrics["calibration"]["coverage"] == 0.8
    rows = pd.read_parquet(case.catalog.path.path)  # a new name for the same camera
    rows["attributes"] = rows["attributes"].str.replace('"b"', '"c"')
    rows.to_parquet(tmp_path / "catalog.parquet")
    changed = replace(case.catalog, path=UPath(tmp_path / "catalog.parquet"))
    assert other.evaluate(reused=True, catalog=changed, coverage=0.8).worse[0] == "camera c"


def test_images_set_aside_for_validation_are_what_the_calibration_is_found_on(
    prefect: None, tmp_path: Path, digits: Digits
) -> None:
    case = Case(tmp_path, digits, epochs=2, validation=3)
    assert case.shard_set.validation > 100
    case.evaluate(coverage=None, novelty=None, costs={}, recall={}, slices=[])
    found = case.metrics
    assert (found["calibration"]["fitted_on"], found["calibration"]["images"]) == (
        "validation",
        case.shard_set.validation,
    )
    assert (found["coverage"], found["decisions"], found["slices"]) == (None, None, [])
    assert found["calibration"]["threshold"] is None
    rows = pd.read_parquet(case.file("predictions.parquet"))
    assert rows[["prediction_set", "needs_review", "novelty", "unknown"]].isna().all(axis=None)
    assert not case.file("novelty.safetensors").exists()
    assert (rows["decided"] == rows["predicted"]).all()


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            {"slices": ["camra"]},
            "data set file of d: evaluate.slices: there is no column 'camra'. Did you mean 'camera'?",
        ),
        ({"costs": {"missed_03": 2}}, "evaluate.costs.missed_03: unknown class. Did you mean 'missed_3'?"),
        ({"recall": {"7": 0.9}}, "evaluate.recall.7: unknown class. Known: 0, 1, 2, 3."),
    ],
)
def test_what_the_data_do_not_have_is_said_before_the_training(
    case: Case, wanted: dict[str, Any], message: str
) -> None:
    dataset = case.dataset.model_copy(update={"evaluate": EvaluateConfig.model_validate(wanted)})
    with pytest.raises(UserError) as caught:
        ingested(dataset, case.store)
    assert message in str(caught.value)
