"""A champion in other frameworks: measured there, exported, and its layers' outputs for all images."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from upath import UPath

from flows.classify_batch import classify_batch
from flows.evaluate_backend import evaluate_backend
from flows.export import export
from flows.features import features
from flows.nightly_retrain import nightly_retrain
from resnet_core.errors import UserError
from resnet_core.export import torch_file
from resnet_core.export.formats import Backend
from resnet_core.model.features import compute
from tasks.export import backends
from tasks.export.features import check_wanted
from tasks.registry.runs import client
from tasks.registry.versions import load_classifier
from tasks.settings import Settings
from tests.conftest import write_folder

pytestmark = pytest.mark.usefixtures("prefect")

Digits = tuple[np.ndarray, list[str]]


@pytest.fixture
def dataset(store: Path, tmp_path: Path, digits: Digits) -> Path:
    """A data set file over 300 digits of three classes, whose champion has learned a little."""
    write_folder(tmp_path / "raw", digits, range(3), 300)
    content = {
        "name": "few",
        "source": str(tmp_path / "raw"),
        "image": {"size": 8},
        "model": {"arch": "resnet10", "width": 16, "score_flips": "vertical"},
        "train": {"epochs": 3, "batch_size": 32, "optimizer": "sgd", "lr": 0.1},
        "gate": {"minimum": 0.0},
    }
    path = tmp_path / "few.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_champion_leaves_for_other_frameworks(
    dataset: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    night = nightly_retrain(str(dataset))
    assert night.version is not None
    assert night.shard_set is not None

    # The file scores raw pixels as the champion scores files.
    made = export("few@champion", "torch", str(tmp_path / "few.pt2"))
    assert made.count == night.shard_set.test
    scores = classify_batch(str(tmp_path / "raw"), str(tmp_path / "scores"), "few@champion")
    rows = pd.concat(pd.read_parquet(path) for path in Path(str(scores.output)).glob("*.parquet"))
    own = dict(zip(rows["image_id"], rows["probabilities"], strict=True))
    run = torch_file.load(tmp_path / "few.pt2")
    for path in night.shard_set.files:
        shard = pd.read_parquet(str(path), columns=["image_id", "levels"])
        pixels = np.stack([np.frombuffer(levels, np.uint8).reshape(8, 8) for levels in shard["levels"]])
        np.testing.assert_allclose(run(pixels), np.stack([own[name] for name in shard["image_id"]]), atol=1e-5)

    # Another framework measures what the evaluation measured, or the flow fails.
    found = evaluate_backend(str(dataset), "torch")
    assert night.evaluation is not None
    assert found.count == night.shard_set.test
    assert found.accuracy == pytest.approx(night.evaluation.metrics["accuracy"].value)
    monkeypatch.setattr(backends.export_formats, "accuracy", lambda *given: found.own_accuracy - 0.002)
    with pytest.raises(backends.BackendError, match="where PyTorch measures"):
        evaluate_backend(str(dataset), "torch")

    check_features(dataset, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(("onnx", "openvino"), marks=pytest.mark.onnx),
        pytest.param(("tensorflow",), marks=pytest.mark.tensorflow),
    ],
)
def test_other_frameworks_measure_the_same_accuracy(dataset: Path, store: Path, wanted: tuple[Backend, ...]) -> None:
    night = nightly_retrain(str(dataset))
    assert night.evaluation is not None
    assert night.version is not None
    for backend in wanted:
        found = evaluate_backend(str(dataset), backend)
        assert found.difference < 1e-4
        assert found.accuracy == pytest.approx(night.evaluation.metrics["accuracy"].value, abs=0.001)
        run = client(Settings().tracking_uri).get_run(night.version.run_id)
        assert run.data.metrics[f"test_accuracy_{backend}"] == pytest.approx(found.accuracy)


def check_features(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image once, beside its own uri, whatever happened on the way."""
    monkeypatch.setattr("tasks.export.features.PART_BYTES", 4 * 128 * 40)  # 40 images of `pool` a file
    folder = tmp_path / "features"
    first = features(str(dataset), "pool", "npz", str(folder))
    assert (first.shape, first.count, first.reused) == ((128,), 300, 0)
    files = sorted(folder.glob("*.npz"))
    assert len(files) == first.files >= 8
    assert sum(len(np.load(path)["features"]) for path in files) == 300
    seen = {}
    for path in files:
        part = np.load(path)
        seen |= dict(zip(part["uri"].tolist(), zip(part["label"], part["features"], strict=True), strict=True))
    assert {Path(uri).parent.name == label for uri, (label, _) in seen.items()} == {True}
    assert len(seen) == 300
    champion = load_classifier(Settings().tracking_uri, first.version, "cpu")
    pixels = np.stack([np.asarray(Image.open(uri.removeprefix("file://"))) for uri in seen])
    own = compute(champion, pixels, "pool")
    np.testing.assert_allclose(np.stack([found for _, found in seen.values()]), own, atol=1e-5)
    assert json.loads((folder / "_manifest.json").read_text())["images"] == 300

    lost = np.load(files[3])["features"]
    files[3].unlink()
    again = features(str(dataset), "pool", "npz", str(folder))
    assert again.reused == 300 - len(lost)
    assert np.array_equal(np.load(files[3])["features"], lost)
    for layer, output, message in (("logits", folder, "holds pool features"), ("pool", tmp_path, "is not empty")):
        with pytest.raises(UserError, match=message):
            features(str(dataset), layer, "npz", str(output))  # type: ignore[arg-type]


def test_an_encrypted_data_set_leaves_nothing_in_the_clear_unasked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--in-clear"):
        check_wanted("npz", UPath(tmp_path / "new"), encrypted=True, in_clear=False)
    check_wanted("npz", UPath(tmp_path / "new"), encrypted=True, in_clear=True)
