"""An export appears only if it says what the model says, and is checked on images held out for it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.export import formats as export_formats
from resnet_core.export import torch_file
from resnet_core.export.formats import Format
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.model.classifier import Classifier
from tasks.export import export as stage
from tasks.registry.images import VersionImages, check_fits
from tasks.values import ModelVersion, ShardSet
from tests.places import a_workspace
from tests.resnet_core.model.test_classifier import a_classifier
from tests.resnet_core.shards.test_format import CLASSES, write

MODEL = ModelVersion("digits", "3", "run")
Digits = tuple[np.ndarray, list[str]]
HERE = a_workspace(UPath("store"))


@pytest.fixture
def images(tmp_path: Path, digits: Digits) -> VersionImages:
    """Shards of 600 digits, every fifth held out."""
    files = tuple(write(UPath(tmp_path / "shards"), digits))
    shard_set = ShardSet("digits", UPath("shards"), files, "x", CLASSES, Preprocessing(8), 480, 0, 120, 0)
    return VersionImages(shard_set, None)


@pytest.fixture
def classifier(monkeypatch: pytest.MonkeyPatch, images: VersionImages) -> Classifier:
    """A network of ten classes that has learned nothing, in place of the registry's."""
    from resnet_core.model.resnet import build
    from tests.resnet_core.model.test_resnet import TINY, randomised

    network = build(TINY, size=8, classes=10, seed=5)
    randomised(network)
    ours = replace(a_classifier(), network=network, config=TINY, classes=CLASSES, preprocessing=Preprocessing(8))
    monkeypatch.setattr(stage, "load_classifier", lambda *place: ours)
    monkeypatch.setattr(stage, "images_of", lambda *place: images)
    return ours


def run_export(kind: Format, output: Path, **more: bool) -> object:
    return stage.export(MODEL, kind, UPath(output), HERE, **more)


def spoil(monkeypatch: pytest.MonkeyPatch, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """A framework that computes something else."""
    load = export_formats.load

    def spoiled(backend: export_formats.Backend, path: Path) -> object:
        run = load(backend, path)
        return lambda images: change(run(images))

    monkeypatch.setattr(export_formats, "load", spoiled)


def test_an_export_that_agrees_is_written(classifier: Classifier, tmp_path: Path, digits: Digits) -> None:
    made = stage.export(MODEL, "torch", UPath(tmp_path / "new" / "model.pt2"), HERE)
    assert made.count == 120
    assert 0 <= made.difference < 1e-5
    assert made.accuracy == made.own_accuracy
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.pt2"]
    run = torch_file.load(tmp_path / "new" / "model.pt2")
    np.testing.assert_allclose(run(digits[0][:9]), classifier.probabilities(digits[0][:9]), atol=1e-5)


def test_one_that_differs_is_not_unless_that_is_allowed(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, lambda found: found + np.float32(2e-4))
    output = tmp_path / "new" / "model.pt2"
    output.parent.mkdir()
    output.write_text("of yesterday")
    with pytest.raises(stage.ExportError, match=r"differs by 0\.0002.*was not written"):
        run_export("torch", output)
    assert output.read_text() == "of yesterday"
    assert len(list(output.parent.iterdir())) == 1
    made = stage.export(MODEL, "torch", UPath(output), HERE, allow_difference=True)
    assert "differs by 0.0002" in made.wrong
    torch_file.check_no_pickle(output)


@pytest.mark.onnx
def test_int8_may_differ_but_not_in_more_than_half_a_point_of_accuracy(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: VersionImages
) -> None:
    # Each held-out image is given the label that the network says: it is right on all of them.
    right = {id(classifier): lambda some: replace(some, labels=classifier.probabilities(some.pixels).argmax(1))}

    class Right(VersionImages):
        def split(self, split):  # type: ignore[no-untyped-def]
            return map(right[id(classifier)], super().split(split))

    known = Right(images.shard_set, None)
    monkeypatch.setattr(stage, "images_of", lambda *place: known)
    made = stage.export(MODEL, "int8", UPath(tmp_path / "good.onnx"), HERE, allow_difference=True)
    assert made.difference > 1e-4  # which no other format may
    assert made.own_accuracy == 1

    spoil(monkeypatch, lambda found: found[:, ::-1])
    with pytest.raises(stage.ExportError, match=r"accuracy falls by .* points"):
        run_export("int8", tmp_path / "bad.onnx")
    assert not (tmp_path / "bad.onnx").exists()


def test_half_a_point_is_let_through_and_more_is_not() -> None:
    labels = np.zeros(1000, np.int64)
    own = np.tile(np.float32([1, 0]), (1000, 1))

    def of(wrong: int) -> stage.Agreement:
        exported = own.copy()
        exported[:wrong] = [0, 1]
        return stage.Agreement(labels, own, exported, 1, 1)

    assert stage.what_is_wrong("int8", of(5)) == ""
    assert "0.60 points" in stage.what_is_wrong("int8", of(6))
    assert stage.what_is_wrong("onnx", of(0)) == ""
    assert "differs by 1," in stage.what_is_wrong("onnx", of(1))


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [("torch", "model.onnx", r"should end in \.pt2"), ("torch", "folder.pt2", "is a folder")],
)
def test_a_place_that_cannot_be_meant_is_said_before_anything_is_done(
    kind: Format, name: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(UserError, match=message):
        stage.check_place(UPath(tmp_path / name), kind)


def test_int8_is_calibrated_on_training_images_of_all_shards(images: VersionImages, digits: Digits) -> None:
    training = np.stack([digits[0][k] for k in range(600) if k % 5])
    assert np.array_equal(images.sample(1000), training)
    some = images.sample(48)
    assert len(some) == 48
    assert np.array_equal(some[[0, -1]], training[[0, -1]])
    places = [next(k for k, image in enumerate(training) if np.array_equal(image, one)) for one in some]
    assert np.diff(places).max() < 15


def test_shards_of_other_images_are_refused(classifier: Classifier, images: VersionImages) -> None:
    shard_set = images.shard_set
    check_fits(MODEL, classifier, shard_set)
    for other, message in (
        (replace(shard_set, preprocessing=Preprocessing(16)), "another size"),
        (replace(shard_set, classes=CLASSES[::-1]), "knows the classes 0, 1"),
    ):
        with pytest.raises(UserError, match=message):
            check_fits(MODEL, classifier, other)
