"""int8 scores a batch only where the gate has shown, on held-out images, what it costs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow.tracking import MlflowClient
from upath import UPath

from flows.nightly_retrain import nightly_retrain
from resnet_core.errors import UserError
from resnet_core.evaluation.comparison import Comparison, Pair
from resnet_core.model.calibration import Calibration
from resnet_core.shards.format import iterate
from resnet_core.storage.digest import DamagedVersionError
from tasks.batch import engine_trials as open_engine
from tasks.batch.engine import choose_engine
from tasks.batch.values import EngineChoice
from tasks.dataset import Gate
from tasks.registry.int8_file import FILE
from tasks.registry.versions import INT8, answers_of, load_classifier
from tasks.release.int8 import compare_decisions, measure_int8, outcome_of
from tasks.settings import Settings
from tasks.values import Night
from tests.conftest import write_folder
from tests.places import a_workspace

pytestmark = [pytest.mark.usefixtures("prefect"), pytest.mark.onnx]

Digits = tuple[np.ndarray, list[str]]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Iterator[Night]:
    """Digits of three classes, with a gate that allows int8 to lose 2 points."""
    folder = tmp_path_factory.mktemp("int8")
    content = {
        "name": "few",
        "source": str(write_folder(folder / "raw", digits, range(3), 500)),
        "image": {"size": 8},
        "model": {"arch": "resnet10", "width": 16},
        "train": {"epochs": 8, "batch_size": 32, "optimizer": "sgd", "lr": 0.1, "augment": {"flips": "none"}},
        "gate": {"int8": 0.02},
    }
    path = folder / "few.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("GRAYLINE_STORE", str(folder / "store"))
        yield nightly_retrain(str(path))


def tag(night: Night) -> dict[str, Any]:
    assert night.version
    client = MlflowClient(Settings().tracking_uri, registry_uri=Settings().tracking_uri)
    return dict(json.loads(client.get_model_version(night.version.name, night.version.version).tags.get(INT8, "{}")))


def choose(night: Night, digits: Digits, tmp_path: Path, wanted: str = "int8", files: int = 10) -> EngineChoice:
    assert night.version
    classifier = load_classifier(Settings().tracking_uri, night.version, "cpu")
    return choose_engine.fn(
        night.version,
        classifier,
        lambda: digits[0][:100],
        files,
        wanted,
        a_workspace(UPath(tmp_path / "store"), Settings().tracking_uri),
    )


def measure(night: Night, most: float) -> None:
    measure_int8(night, Gate(int8=most), a_workspace(Settings().root, Settings().tracking_uri))


def test_what_it_costs_is_measured_and_the_promotion_does_not_wait_for_it(night: Night) -> None:
    assert night.decision
    assert night.decision.promoted
    assert "int8" not in [check.name for check in night.decision.checks]
    found = tag(night)
    assert found["allowed"]
    assert -0.02 <= found["lower"] <= found["value"]
    assert 0 <= found["differing"] < 0.02
    assert "images" in found["found"]


def test_allowed_it_scores_and_a_file_that_is_another_is_refused(night: Night, digits: Digits, tmp_path: Path) -> None:
    assert night.version
    assert night.shard_set
    choice = choose(night, digits, tmp_path)
    assert (choice.name, choice.digest) == ("int8", tag(night)["sha256"])
    uri = Settings().tracking_uri
    pixels = digits[0][[k for k, label in enumerate(digits[1]) if label in "012"]]
    own = load_classifier(uri, night.version, "cpu").probabilities(pixels)
    found = open_engine.open_engine(choice, night.version, uri, "cpu").run(pixels)
    assert np.abs(found - own).max() > 1e-6
    assert (found.argmax(1) == own.argmax(1)).mean() > 0.98

    knowing = load_classifier(uri, night.version, "cpu")
    assert knowing.novelty is not None
    held_out = np.concatenate([part.pixels for part in iterate(night.shard_set.files, "test", knowing.classes)])
    answer = open_engine.open_engine(choice, night.version, uri, "cpu").answer
    assert answer is not None
    distances = (knowing.answer(held_out)[1], answer(held_out)[1])
    assert not np.allclose(*distances)
    # By its own distances of the held-out images, int8 gives them the ranks that float32 gives them.
    ranks = [np.sort(knowing.novelty.p_values(each)) for each in distances if each is not None]
    np.testing.assert_allclose(*ranks, atol=2.5 / len(held_out))

    (file,) = UPath(Settings().root).glob(f"mlartifacts/**/{FILE}")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"\0")
    open_engine._open.cache_clear()  # as another process
    try:
        with pytest.raises(DamagedVersionError, match="its int8 file is not the one that the gate has measured"):
            open_engine.open_engine(choice, night.version, uri, "cpu")
    finally:
        file.write_bytes(whole)


def test_the_version_keeps_the_answers_that_the_gate_saw(night: Night) -> None:
    assert night.version
    assert night.shard_set
    uri, shards = Settings().tracking_uri, night.shard_set
    classifier = load_classifier(uri, night.version, "cpu")
    kept = answers_of(uri, night.version, classifier)
    assert len(kept) == min(shards.test, 512)
    held_out = {images.tobytes() for part in iterate(shards.files, "test", shards.classes) for images in part.pixels}
    assert {image.tobytes() for image in kept.pixels} <= held_out
    np.testing.assert_array_equal(kept.probabilities, classifier.probabilities(kept.pixels))


def test_a_machine_whose_int8_decides_otherwise_takes_float32_and_says_so(
    night: Night, digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The products of this machine's int8 saturate: as if its weights were others."""
    import onnx

    whole = open_engine.int8_file

    @contextmanager
    def saturated(*where: Any) -> Iterator[Path]:
        with whole(*where) as path:
            model = onnx.load(str(path))
            for weight in model.graph.initializer:
                if weight.data_type == onnx.TensorProto.INT8 and len(weight.dims) == 4:
                    levels = onnx.numpy_helper.to_array(weight).clip(-12, 12)
                    weight.CopyFrom(onnx.numpy_helper.from_array(levels, weight.name))
            onnx.save(model, str(tmp_path / FILE))
        yield tmp_path / FILE

    monkeypatch.setattr(open_engine, "int8_file", saturated)
    monkeypatch.setattr(open_engine, "can_run", lambda name, device: name == "int8")
    open_engine._open.cache_clear()
    with caplog.at_level("WARNING", "grayline"):
        choice = choose(night, digits, tmp_path, "auto", 10**9)
    assert choice.name == "torch"
    assert "decisions differ from those that the gate saw" in choice.refused["int8"]
    assert f"int8 is not used here: {choice.refused['int8']}" in caplog.text
    open_engine._open.cache_clear()


def test_a_version_that_is_not_signed_is_refused_in_int8_too(
    night: Night, digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = keys_in(tmp_path)
    choice = choose(night, digits, tmp_path)
    open_engine._open.cache_clear()
    assert night.version
    classifier = load_classifier(Settings().tracking_uri, night.version, "cpu")
    monkeypatch.setenv("GRAYLINE_VERIFY_KEY", str(public))
    with pytest.raises(DamagedVersionError, match="its int8 file is refused: it is not signed"):
        open_engine.open_engine(choice, night.version, Settings().tracking_uri, classifier)


def keys_in(folder: Path) -> Path:
    """A public key; the private one is nobody's."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    path = folder / "public.pem"
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def test_the_loss_is_of_what_a_batch_decides() -> None:
    """int8 moves 0.45 to 0.30 on ten images: the most probable class stays, the decision by the costs does not."""
    labels = np.repeat([0, 1], 10)
    own = np.array([[0.9, 0.1]] * 10 + [[0.55, 0.45]] * 10, np.float32)
    int8 = np.array([[0.9, 0.1]] * 10 + [[0.7, 0.3]] * 10, np.float32)
    found, differing = compare_decisions(Calibration(weights=(1.0, 2.0)), Pair(labels, int8, own), 0.7)
    assert (found.value, found.lost, differing) == (-0.5, 10, 10)
    found, differing = compare_decisions(Calibration(), Pair(labels, int8, own), 0.7)
    assert (found.value, differing) == (0.0, 0)


def test_a_loss_that_is_not_shown_to_be_small_is_not_allowed() -> None:
    def lost(images: int, lower: float) -> Comparison:
        return Comparison(-images / 500, lower, 0.7, 0.5, 0, images, 500)

    allowed = outcome_of(lost(2, -0.008), 0.01, "f00", 5)
    assert allowed["allowed"]
    assert allowed["differing"] == 0.01
    refused = outcome_of(lost(4, -0.012), 0.01, "f00", 4)
    assert not refused["allowed"]
    assert "4 lost, 4 decided otherwise" in refused["found"]


def test_what_the_gate_does_not_allow_is_said_with_the_remedy(
    night: Night, digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.release import int8

    before = json.dumps(tag(night))
    worse = Comparison(-0.05, -0.07, 0.7, 1.0, 0, 8, 160)
    monkeypatch.setattr(int8, "compare", lambda *how: worse)
    measure(night, 0.01)
    assert not tag(night)["allowed"]
    with pytest.raises(UserError, match=r"--engine int8: the gate has not allowed it.*8 lost.*raise `int8`"):
        choose(night, digits, tmp_path)
    assert night.version
    client = MlflowClient(Settings().tracking_uri, registry_uri=Settings().tracking_uri)
    client.delete_model_version_tag(night.version.name, night.version.version, INT8)
    with pytest.raises(UserError, match=r"it was not measured for few version 1\. Set `gate: \{int8: 0\.01\}`"):
        choose(night, digits, tmp_path)
    client.set_model_version_tag(night.version.name, night.version.version, INT8, before)


def test_without_the_packages_it_is_said_in_a_line(
    night: Night, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from resnet_core.export import formats as export_formats

    before = tag(night)
    monkeypatch.setattr(export_formats, "find_spec", lambda name: None)
    with caplog.at_level("WARNING", "grayline"):
        measure(night, 0.02)
    assert "int8 was not measured: gate: int8: needs onnx. Run `pip install 'grayline[onnx]'`." in caplog.text
    assert tag(night) == before
