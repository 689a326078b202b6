"""An exported file says what the classifier says, in every framework, and is no pickle."""

import json
import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from resnet_core.errors import UserError
from resnet_core.export import formats as export_formats
from resnet_core.export import litert_file, onnx_file, torch_file
from resnet_core.export.formats import Backend, compare
from resnet_core.export.graph import ScoringGraph, describe, trace
from resnet_core.export.litert_file import rule
from resnet_core.model.calibration import Calibration
from resnet_core.model.classifier import Classifier
from resnet_core.model.inputs import Normalisation, resize_batch, resize_matrix
from resnet_core.shards.format import Images
from tests.resnet_core.model.test_classifier import a_classifier
from tests.resnet_core.model.test_resnet import TINY

SIZE = 32
# All that there is between gray levels and probabilities: pooling in the stem, views smaller and larger
# than the image, mirror images, both kinds of head's means and maxima, a temperature.
EVERYTHING = replace(
    TINY, stem="imagenet", head="multiscale", drop_path=0.2, score_scales=(24, 40), score_flips="dihedral"
)
Pixels = np.ndarray


@pytest.fixture(scope="module")
def classifier(pixels: Pixels) -> Classifier:
    ours = a_classifier(SIZE, EVERYTHING, averages=(24, 40, 64))
    last = ours.network.at(SIZE).fc  # so that images differ in what it says of them
    last.weight.data *= 5
    for _ in range(3):
        last.bias.data -= torch.from_numpy(np.log(ours.probabilities(pixels)).mean(0))
    return replace(ours, calibration=Calibration(temperature=0.4, weights=(1, 2, 1)))


@pytest.fixture(scope="module")
def pixels(photograph: Image.Image) -> Pixels:
    """Seven parts of a real photograph, uint8 [7, S, S]."""
    gray = np.asarray(photograph.convert("L"))
    return np.stack([gray[k * 60 : k * 60 + SIZE, 150 : 150 + SIZE] for k in range(7)])


@pytest.fixture(scope="module")
def exported(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Each format's file, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("exported")
    program = trace(classifier)

    class Files(dict[str, Path]):
        def __missing__(self, kind: str) -> Path:
            self[kind] = folder / f"model-{kind}"
            export_formats.write(kind, program, describe(classifier, "parts", "7"), self[kind])  # type: ignore[arg-type]
            return self[kind]

    return Files()


ONNX, TENSORFLOW = pytest.mark.onnx, pytest.mark.tensorflow
BACKENDS = [
    pytest.param("torch"),
    pytest.param("onnx", marks=ONNX),
    pytest.param("openvino", marks=ONNX),
    pytest.param("tensorflow", marks=TENSORFLOW),
]


@pytest.mark.parametrize("backend", BACKENDS)
def test_gray_levels_in_calibrated_probabilities_out_for_any_number_of_images(
    backend: Backend,
    exported: dict[str, Path],
    classifier: Classifier,
    pixels: Pixels,
    capfd: pytest.CaptureFixture[str],
) -> None:
    own = classifier.probabilities(pixels)
    assert np.ptp(own, axis=0).max() > 0.05  # they are not all alike
    run = export_formats.load(backend, exported[export_formats.RUNS[backend]])
    for count in (7, 1, 3):
        found = run(pixels[:count])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, own[:count], atol=1e-5)
    assert capfd.readouterr() == ("", "")  # no library has said anything


READERS = [
    pytest.param("torch", torch_file.read_metadata),
    pytest.param("onnx", onnx_file.read_metadata, marks=ONNX),
    pytest.param("litert", litert_file.read_metadata, marks=TENSORFLOW),
]


@pytest.mark.parametrize(("kind", "read"), READERS)
def test_what_has_to_be_known_of_a_file_is_in_it(
    kind: str, read: object, exported: dict[str, Path], classifier: Classifier
) -> None:
    known = json.loads(read(exported[kind]))  # type: ignore[operator]
    assert (known["name"], known["version"]) == ("parts", "7")
    assert known["classes"] == list(classifier.classes)
    square = {"size": SIZE, "resize": "fit", "background": 9, "decode": "exact"}
    undecided = dict.fromkeys(("bytes", "claims", "floats", "integers"))
    assert known["preprocessing"] == square | {"levels": None, "beyond": "fail", "decided": undecided}
    assert known["normalisation"] == {"mean": 0.4, "std": 0.2}
    assert known["calibration"]["weights"] == [1, 2, 1]
    assert known["input"]["shape"] == ["batch", SIZE, SIZE]


@pytest.mark.onnx
def test_an_onnx_file_has_a_named_input_and_output_with_a_free_batch(exported: dict[str, Path]) -> None:
    import onnx

    graph = onnx.load(str(exported["onnx"])).graph
    assert [(tensor.name, sides(tensor)) for tensor in graph.input] == [("images", ["batch", SIZE, SIZE])]
    assert [(tensor.name, sides(tensor)) for tensor in graph.output] == [("probabilities", ["batch", 3])]
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    # OpenVINO resizes without the averaging that ONNX asks for.
    assert not any(attribute.name == "antialias" and attribute.i for node in graph.node for attribute in node.attribute)


def sides(tensor: object) -> list[str | int]:
    return [side.dim_param or side.dim_value for side in tensor.type.tensor_type.shape.dim]  # type: ignore[attr-defined]


@pytest.mark.onnx
def test_int8_has_weights_of_a_byte_and_about_the_same_probabilities(
    classifier: Classifier, pixels: Pixels, tmp_path: Path
) -> None:
    import onnx

    plain = replace(classifier, config=replace(TINY, stem="imagenet", head="multiscale"))
    export_formats.write("int8", trace(plain), describe(plain, "parts", "7"), tmp_path / "int8", pixels)
    model = onnx.load(str(tmp_path / "int8"))
    large = [weight for weight in model.graph.initializer if np.prod(weight.dims) > 2000]
    assert large
    assert {weight.data_type for weight in large} == {onnx.TensorProto.INT8}
    # Without VNNI, two products are added in 16 bits. No such sum may saturate, whatever the image.
    for weight in large:
        levels = onnx.numpy_helper.to_array(weight).astype(np.int32).reshape(weight.dims[0], -1)
        brightest = np.full(levels.shape[1], 255)
        np.testing.assert_array_equal(levels @ brightest, saturating(levels, brightest))
        eight_bits = 2 * levels.clip(-63, 63)
        assert (eight_bits @ brightest != saturating(eight_bits, brightest)).any()
    found = export_formats.load("onnx", tmp_path / "int8")(pixels)
    assert 1e-6 < np.abs(found - plain.probabilities(pixels)).max() < 0.1
    assert json.loads(onnx_file.read_metadata(tmp_path / "int8"))["version"] == "7"


def saturating(weights: np.ndarray, activations: np.ndarray) -> np.ndarray:
    """Weights int [N, K] times activations [K] as `vpmaddubsw` has it: pairs are added in int16."""
    products = np.pad(weights * activations, ((0, 0), (0, weights.shape[1] % 2)))
    return products.reshape(len(weights), -1, 2).sum(2).clip(-(2**15), 2**15 - 1).sum(1)


def test_exporting_leaves_the_classifier_as_it_was(classifier: Classifier) -> None:
    before = {name: value.clone() for name, value in classifier.network.state_dict().items()}
    ScoringGraph(classifier)
    assert all(torch.equal(value, before[name]) for name, value in classifier.network.state_dict().items())
    assert all(weight.requires_grad for weight in classifier.network.parameters())


class Hostile:
    """What runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return exec, (f"open({str(self.mark)!r}, 'w').close()",)  # type: ignore[return-value]


@pytest.mark.parametrize(
    "place", ["data/sample_inputs/model.pt", "data/weights/weight_0", "data/constants/custom_obj_0"]
)
def test_a_pt2_file_has_no_pickle_and_one_that_has_is_not_loaded(
    place: str, exported: dict[str, Path], tmp_path: Path
) -> None:
    whole, mark, changed = exported["torch"], tmp_path / "mark", tmp_path / "changed.pt2"
    torch_file.check_no_pickle(whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(changed, "w") as new:
        top = old.namelist()[0].partition("/")[0]
        assert not any(old.read(name)[:2] == b"\x80\x02" for name in old.namelist())
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("weights_config.json") and place.startswith("data/weights"):
                content = content.replace(b'"use_pickle":false', b'"use_pickle":true').replace(
                    b'"use_pickle": false', b'"use_pickle": true'
                )
                assert content != old.read(name)
            if name.partition("/")[2] != place:
                new.writestr(name, content)
        new.writestr(f"{top}/{place}", pickle.dumps(Hostile(mark)))
    with pytest.raises(UserError, match="may be a pickle"):
        torch_file.load(changed)
    assert not mark.exists()


@pytest.mark.parametrize(("side", "wanted"), [(32, 24), (32, 40), (96, 64), (9, 8), (16, 16)])
def test_resizing_is_two_products(side: int, wanted: int) -> None:
    x = torch.rand(3, 1, side, side)
    matrix = resize_matrix(side, wanted)
    torch.testing.assert_close(matrix.T @ x @ matrix, resize_batch(x, wanted), atol=1e-6, rtol=0)


def test_an_operation_without_a_rule_is_said() -> None:
    program = torch.export.export(nn.GELU(), (torch.rand(2, 3),)).run_decompositions()
    node = next(node for node in program.graph.nodes if node.op == "call_function")
    with pytest.raises(NotImplementedError, match=r"no rule for aten\.gelu"):
        rule(node)


def test_a_missing_package_is_said_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_formats, "find_spec", lambda name: None)
    for wanted, extra in (("litert", "tensorflow"), ("int8", "onnx"), ("openvino", "onnx"), ("tfrecord", "tensorflow")):
        with pytest.raises(UserError, match=rf"needs \w+. Run `pip install 'grayline\[{extra}\]'`"):
            export_formats.check_installed("--format", wanted)
    export_formats.check_installed("--format", "torch")


def test_the_first_images_are_compared_and_no_number_is_the_largest_difference(pixels: Pixels) -> None:
    classifier = replace(a_classifier(SIZE), normalisation=Normalisation(0.5, 0.3))
    own, seen = classifier.probabilities(pixels), []

    def run(images: Pixels) -> Pixels:
        found = classifier.probabilities(images)
        found[:1, 0] += 0.25
        return found

    ids, weights = np.empty(7, object), np.ones(7, np.float32)
    images = Images(ids, own.argmax(1), weights, pixels)
    found = compare(classifier, run, [images, images], 9, seen.append)
    assert (found.count, sum(seen)) == (9, 9)
    assert found.difference == pytest.approx(0.25)
    assert found.own_accuracy == 1
    lost = replace(found, exported=np.full_like(found.exported, np.nan))
    assert lost.difference == np.inf


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_framework_counts_the_same_images_as_right(backend: Backend) -> None:
    labels = np.array([0, 1, 2, 2])
    probabilities = np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0, 0, 1], [0, 0.4, 0.6]], dtype=np.float32)
    assert export_formats.accuracy(backend, labels, probabilities) == pytest.approx(0.75)
