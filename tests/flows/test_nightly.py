"""The nightly flow on real digits, on real Prefect and MLflow: register, gate, promote, roll back."""

import base64
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient
from PIL import Image

from flows.classify_batch import classify_batch
from flows.features import features
from flows.nightly_retrain import nightly_retrain
from flows.promote import promote, rollback
from flows.reproduce import reproduce
from resnet_core.errors import DataCheckError, UserError
from tasks.dataset import load_dataset
from tasks.ingest.again import begin_again
from tasks.registry.images import learned_from
from tasks.registry.versions import resolve
from tasks.settings import Settings
from tasks.training.start import start_of
from tasks.values import ModelVersion, Night
from tests.conftest import write_folder
from tests.places import a_workspace

pytestmark = pytest.mark.usefixtures("prefect")

Digits = tuple[np.ndarray, list[str]]


@pytest.fixture
def dataset(store: Path, tmp_path: Path, digits: Digits) -> Path:
    """A data set file over 400 digits of three classes, which take seconds to learn."""
    write_folder(tmp_path / "raw", digits, range(3), 400)
    return write(tmp_path / "few.yaml", tmp_path / "raw")


def write(path: Path, source: Path, **changes: object) -> Path:
    content = {
        "name": "few",
        "source": str(source),
        "image": {"size": 8},
        "model": {"arch": "resnet10", "width": 16},
        "train": {"epochs": 12, "batch_size": 32, "optimizer": "sgd", "lr": 0.1, "augment": {"flips": "none"}},
        "gate": {"minimum": 0.9},
        **changes,
    }
    path.write_text(yaml.safe_dump(content))
    return path


def registry() -> MlflowClient:
    return MlflowClient(Settings().tracking_uri, registry_uri=Settings().tracking_uri)


def champion() -> str:
    return str(registry().get_model_version_by_alias("few", "champion").version)


def test_a_night_ends_with_a_champion_and_the_next_one_redoes_nothing(dataset: Path, store: Path) -> None:
    night = nightly_retrain(str(dataset))
    assert night.decision is not None
    assert night.decision.promoted
    assert champion() == "1"
    assert night.evaluation is not None
    assert night.evaluation.metrics["accuracy"].value > 0.95

    again = nightly_retrain(str(dataset))
    assert again.catalog.read == 0
    assert again.shard_set is not None
    assert again.shard_set.written == 0
    assert again.checkpoint is not None
    assert again.checkpoint.reused
    assert again.evaluation == night.evaluation
    assert again.version == night.version
    assert len(registry().search_model_versions("name = 'few'")) == 1


def test_a_night_starts_from_the_champion_when_the_file_says_so(
    dataset: Path, store: Path, tmp_path: Path, digits: Digits, caplog: pytest.LogCaptureFixture
) -> None:
    first = nightly_retrain(str(dataset))
    warm = yaml.safe_load(dataset.read_text())["train"] | {"start": "champion"}
    write(dataset, tmp_path / "raw", train=warm)
    write_folder(tmp_path / "raw", digits, range(3), 20, start=400)
    with caplog.at_level("INFO", logger="grayline"):
        second = nightly_retrain(str(dataset))
    assert first.checkpoint is not None
    assert second.checkpoint is not None
    assert (first.checkpoint.epochs, second.checkpoint.epochs) == (12, 6)
    assert f"from {first.checkpoint.digest}" in caplog.text
    assert champion() == "2"  # as good, in half the epochs

    third = nightly_retrain(str(dataset))  # nothing new: the champion is not trained on from itself
    assert third.checkpoint is not None
    assert third.checkpoint.reused
    assert third.checkpoint.digest == second.checkpoint.digest
    assert third.version == second.version
    assert reproduce("few/2").identical  # from the same weights, over as many epochs

    version = ModelVersion("few", "2", third.version.run_id)  # type: ignore[union-attr]
    here = a_workspace(Settings().root, Settings().tracking_uri)
    known = learned_from(version, here)
    trained = pd.concat(pd.read_parquet(path) for path in (store / "shards").glob("*/*/*.parquet"))
    assert known is not None
    assert known.ids == {image_id[:16] for image_id in trained[trained["split"] == "train"]["image_id"]}
    begin_again(here.store, "few", "a test")
    caplog.clear()
    with caplog.at_level("INFO", logger="grayline"):
        fourth = nightly_retrain(str(dataset))
    assert fourth.checkpoint is not None
    assert fourth.checkpoint.epochs == 12
    assert re.search(r"the champion has learned from \d+ of the test images: starting from scratch", caplog.text)


def test_a_training_starts_from_the_champion_whose_alias_was_deleted(dataset: Path, store: Path) -> None:
    """The gate compares with that version, too."""
    first = nightly_retrain(str(dataset))
    assert first.checkpoint is not None
    assert first.shard_set is not None
    registry = MlflowClient(Settings().tracking_uri, registry_uri=Settings().tracking_uri)
    registry.delete_registered_model_alias("few", "champion")
    data = load_dataset(dataset)
    warm = data.model_copy(update={"train": replace(data.train, start="champion")})
    folder, _ = start_of(warm, first.shard_set, a_workspace(Settings().root, Settings().tracking_uri))
    assert folder == first.checkpoint.folder


def test_what_mlflow_has(dataset: Path, store: Path, digits: Digits) -> None:
    night = nightly_retrain(str(dataset))
    assert night.version is not None
    assert night.checkpoint is not None
    run = registry().get_run(night.version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.epochs"] == "12"
    assert run.data.params["model.arch"] == "resnet10"
    assert {"test_accuracy", "test_accuracy_low", "test_macro_f1", "test_roc_auc"} <= set(run.data.metrics)
    history = registry().get_metric_history(night.version.run_id, "train_loss")
    assert [metric.step for metric in history] == list(range(1, 13))
    (inputs,) = run.inputs.dataset_inputs
    assert (inputs.dataset.name, inputs.dataset.digest) == ("few", night.catalog.digest)
    plots = {Path(file.path).name for file in registry().list_artifacts(night.version.run_id, "evaluation")}
    assert {"confusion_matrix.png", "roc_curve.png", "reliability.png", "training_curves.png"} <= plots
    assert "torch==" in mlflow.artifacts.load_text(f"runs:/{night.version.run_id}/environment.txt")
    predictions = pd.read_parquet(Path(night.evaluation.folder.path) / "predictions.parquet")  # type: ignore[union-attr]
    assert len(predictions) == night.evaluation.count  # type: ignore[union-attr]


LOADS = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
sys.path = [place for place in sys.path if not place.startswith("__editable__")]
import pickle
def refuse(*a, **k): raise AssertionError("a pickle was loaded")
pickle.load = pickle.loads = pickle.Unpickler = refuse
import json, mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
for name in ("duckdb", "prefect", "psutil"): sys.modules[name] = None  # not among the version's requirements
model = mlflow.pyfunc.load_model("models:/few@champion")
images = np.load(sys.argv[2])
import resnet_core
print(json.dumps([resnet_core.__file__, model.predict(images).to_dict("list")]))
"""


def test_the_champion_predicts_on_raw_arrays_without_grayline_and_without_pickle(
    dataset: Path, store: Path, tmp_path: Path, digits: Digits
) -> None:
    nightly_retrain(str(dataset))
    files = sorted((tmp_path / "raw").rglob("*.png"))[:20]
    images = np.stack([np.asarray(Image.open(file)) for file in files])
    np.save(tmp_path / "images.npy", images)
    done = subprocess.run(
        [sys.executable, "-c", LOADS, Settings().tracking_uri, str(tmp_path / "images.npy")],
        env={**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code, found = json.loads(done.stdout.splitlines()[-1])
    assert str(store) in code  # the version's own copy
    scores = classify_batch(str(tmp_path / "raw"), str(tmp_path / "out"))
    rows = pd.read_parquet(tmp_path / "out").set_index("uri").loc[[str(file) for file in files]]
    assert found["label"] == rows["label"].tolist()
    np.testing.assert_allclose(found["confidence"], rows["confidence"], atol=1e-5)
    np.testing.assert_allclose(found["probabilities"], np.stack(rows["probabilities"].to_numpy()), atol=1e-5)
    assert scores.model.version == "1"


def test_scoring_gives_what_evaluation_stored(dataset: Path, store: Path, tmp_path: Path) -> None:
    night = nightly_retrain(str(dataset))
    classify_batch(str(tmp_path / "raw"), str(tmp_path / "out"), "few@champion")
    stored = pd.read_parquet(Path(night.evaluation.folder.path) / "predictions.parquet").set_index("image_id")  # type: ignore[union-attr]
    rows = pd.read_parquet(tmp_path / "out").drop_duplicates("image_id").set_index("image_id").loc[stored.index]
    expected, found = (np.stack(t["probabilities"].to_numpy()) for t in (stored, rows))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_gate_lets_no_worse_model_in_and_a_person_can(dataset: Path, store: Path, tmp_path: Path) -> None:
    nightly_retrain(str(dataset))
    worse = write(dataset, tmp_path / "raw", train={"epochs": 1, "batch_size": 128, "lr": 1e-5}, gate={"minimum": 0.1})
    night = nightly_retrain(str(worse))
    assert night.decision is not None
    assert not night.decision.promoted
    failed = [check.name for check in night.decision.checks if not check.passed]
    assert failed[:2] == ["baseline", "champion (version 1)"]
    assert set(failed) <= {"baseline", "champion (version 1)", "slices"}
    assert champion() == "1"
    refused = registry().get_model_version("few", "2")
    assert refused.tags["grayline.gate"].startswith("refused: baseline: ")
    assert "; champion (version 1): " in refused.tags["grayline.gate"]
    assert resolve(Settings().tracking_uri, "few@challenger").version == "2"

    promote("few", None, "I know better")
    assert champion() == "2"
    assert registry().get_model_version("few", "2").tags["grayline.champion_reason"] == "I know better"
    rollback("few", None, "I did not")
    assert champion() == "1"
    assert "I did not" in registry().get_model_version("few", "2").tags["grayline.rolled_back"]
    with pytest.raises(UserError, match="version 1 has no earlier champion that is still registered"):
        rollback("few")

    again = nightly_retrain(str(worse))  # what a person took back stays away
    assert [check.passed for check in again.decision.checks if check.name == "history"] == [False]  # type: ignore[union-attr]


def test_the_floor_holds_from_the_first_night(dataset: Path, store: Path, tmp_path: Path) -> None:
    night = nightly_retrain(str(write(dataset, tmp_path / "raw", train={"epochs": 1, "lr": 1e-5})))
    assert night.decision is not None
    assert not night.decision.promoted
    passed = {check.name: check.passed for check in night.decision.checks}
    passed.pop("baseline")  # chance decides whether a network that learned next to nothing beats a constant answer
    assert passed == {"floor": False, "history": True, "held out": True}
    with pytest.raises(UserError, match="model 'few' has no alias 'champion'"):
        classify_batch(str(tmp_path / "raw"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_champion_of_another_size_and_fewer_classes_is_held_against_the_same_images(
    dataset: Path, store: Path, tmp_path: Path, digits: Digits
) -> None:
    nightly_retrain(str(dataset))
    write_folder(tmp_path / "raw", digits, range(3, 4), 100)
    other = write(dataset, tmp_path / "raw", image={"size": 12})
    night = nightly_retrain(str(other))
    assert night.decision is not None
    (check,) = (check for check in night.decision.checks if check.name.startswith("champion"))
    # The champion has never seen the fourth class, a fifth of the images: the new one is that much better.
    assert float(check.found.split()[0]) == pytest.approx(0.2, abs=0.08)
    assert night.decision.promoted
    assert champion() == "2"


@pytest.mark.parametrize("ends", ["killed", "overstayed"])
def test_a_training_that_has_ended_early_is_resumed_in_the_same_run(
    dataset: Path, store: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    from tasks import workspace
    from tasks.registry import runs as tracking
    from tasks.training import train as stage

    whole, now = tracking.log_epochs, [0.0]
    monkeypatch.setenv("GRAYLINE_NIGHT_HOURS", "1")
    monkeypatch.setattr(workspace, "_clock", lambda: now[0])

    def end(tracking_uri: str, run_id: str, epochs: list[object]) -> None:
        whole(tracking_uri, run_id, epochs)  # type: ignore[arg-type]
        if epochs[0].epoch == 2:  # type: ignore[attr-defined]
            now[0] = 3601
            if ends == "killed":
                raise KeyboardInterrupt

    monkeypatch.setattr(stage.tracking, "log_epochs", end)
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        nightly_retrain(str(dataset), until="train")
    if ends == "overstayed":
        assert "longer than GRAYLINE_NIGHT_HOURS=1: ended after epoch 2 of 12. The next night" in str(caught.value)
    monkeypatch.setattr(stage.tracking, "log_epochs", whole)
    night: Night = nightly_retrain(str(dataset), until="train")
    assert night.checkpoint is not None
    run = registry().get_run(night.checkpoint.mlflow_run_id)
    history = registry().get_metric_history(run.info.run_id, "train_loss")
    assert [metric.step for metric in history] == list(range(1, 13))
    assert len(registry().search_runs([run.info.experiment_id])) == 1


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("fwe@champion", "no model 'fwe'. Did you mean 'few'?"),
        ("few@champoin", "no alias 'champoin'. Did you mean 'champion'?"),
        ("few/9", "has no version '9'. It has: 1."),
    ],
)
def test_an_unknown_model_is_the_users_error(
    dataset: Path, store: Path, tmp_path: Path, reference: str, message: str
) -> None:
    with pytest.raises(UserError, match="no model is registered yet"):
        classify_batch(str(tmp_path / "raw"), str(tmp_path / "out"), reference)
    nightly_retrain(str(dataset))
    with pytest.raises(UserError) as caught:
        classify_batch(str(tmp_path / "raw"), str(tmp_path / "out"), reference)
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_set_too_large_for_memory_is_streamed_and_validation_is_shown_by_epoch(
    dataset: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAYLINE_RESIDENT_BYTES", "1000")  # 400 digits are 25,600
    split = {"test": 0.25, "validation": 0.2}
    night = nightly_retrain(str(write(dataset, tmp_path / "raw", split=split)), until="evaluate")
    assert night.shard_set is not None
    assert night.shard_set.validation > 0
    assert night.checkpoint is not None
    assert night.evaluation is not None
    assert night.evaluation.metrics["accuracy"].value > 0.9
    history = registry().get_metric_history(night.checkpoint.mlflow_run_id, "validation_accuracy")
    assert len(history) == 12
    assert history[-1].value > 0.9


def test_the_store_need_not_be_a_disk(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAYLINE_STORE", f"memory://{tmp_path.name}")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI: set it"):
        nightly_retrain(str(dataset))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)  # MLflow's artifacts go below the working folder then
    first, again = nightly_retrain(str(dataset)), nightly_retrain(str(dataset))
    assert first.decision is not None
    assert first.decision.promoted
    assert again.catalog.read == 0
    scores = classify_batch(str(tmp_path / "raw"))
    assert scores.output.protocol == "memory"
    assert sum(len(pd.read_parquet(part.open("rb"))) for part in scores.output.glob("*.parquet")) == 400


def test_encrypted_gray_values_are_nowhere_in_clear(
    dataset: Path, tmp_path: Path, store: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = write(dataset, tmp_path / "raw", encrypt=True)
    with pytest.raises(UserError, match="encrypt: no key is set"):
        nightly_retrain(str(secret))
    monkeypatch.setenv("GRAYLINE_KEYS", "test = " + base64.b64encode(bytes(range(32))).decode())
    night = nightly_retrain(str(secret))
    assert night.decision is not None
    assert night.decision.promoted
    levels = [digits[0][k].tobytes() for k, label in enumerate(digits[1]) if label in "012"][:50]
    for path in store.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(image in content for image in levels), path
    assert night.shard_set is not None
    for path in night.shard_set.files:
        with pytest.raises(OSError, match="encrypt"):
            pd.read_parquet(path.path)
    assert not list(store.rglob("samples.png"))
    assert reproduce("few").identical
    with pytest.raises(UserError, match="--in-clear"):
        features(str(secret), "pool", "parquet", str(tmp_path / "features"))
    assert features(str(secret), "pool", "parquet", str(tmp_path / "features"), in_clear=True).count == 400
    clear = nightly_retrain(str(write(dataset, tmp_path / "raw", encrypt=False)), until="preprocess")
    assert any(levels[0] in path.read_bytes() for path in (store / "pixels").rglob("*.parquet"))
    assert list(store.rglob("samples.png"))
    assert clear.shard_set is not None
    assert clear.shard_set.digest != night.shard_set.digest


def test_a_night_of_bad_files_fails_and_is_not_accepted(dataset: Path, tmp_path: Path, store: Path) -> None:
    nightly_retrain(str(dataset), until="ingest")
    good = sorted((tmp_path / "raw").rglob("*.png"))
    for path in good[:200]:
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataCheckError, match="truncated 200"):
        nightly_retrain(str(dataset))
    assert not list(store.glob("shards/*"))
    for path in good[:200]:
        path.unlink()
    half = write(dataset, tmp_path / "raw", checks={"images": {"drop": 0.3, "action": "fail"}})
    with pytest.raises(DataCheckError, match="images"):
        nightly_retrain(str(half))
    meant = write(dataset, tmp_path / "raw", checks={"images": {"drop": 0.6, "action": "fail"}})
    assert nightly_retrain(str(meant), until="ingest").catalog.ok == 200


def test_statistics_are_imported_by_the_nights_that_need_them() -> None:
    """They take a twentieth of a night without news."""
    code = "import sys, flows.nightly_retrain; print({'scipy.stats', 'scipy.optimize'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
