"""Every engine says what the classifier says, whoever calls it, however many images at a time."""

import platform
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_core.device import one_thread
from resnet_core.errors import UserError
from resnet_core.export import formats as export_formats
from resnet_core.inference import _cuda, engines
from resnet_core.inference.engines import (
    Engine,
    EngineName,
    alone,
    check_engine,
    compiler,
    open_compiled,
    open_file,
    open_torch,
    write_file,
)
from resnet_core.inference.folded import Step, fold, has_onednn, sides_of
from resnet_core.model.calibration import Calibration
from resnet_core.model.classifier import Classifier
from resnet_core.model.inputs import resize_batch, to_input
from resnet_core.model.novelty import Novelty
from resnet_core.model.resnet import ModelConfig, build
from resnet_core.model.sized import sized
from tests.resnet_core.model.test_classifier import a_classifier
from tests.resnet_core.model.test_resnet import TINY, tiny

CPU = torch.device("cpu")
# All that a network may have: both stems and heads, both kinds of blocks, views smaller and larger than the image; and
# images so small that late layers see 1x1, 2x2 or 3x3 pixels.
NETWORKS = {
    "8 px": (8, TINY),
    "16 px": (16, TINY),
    "24 px": (24, replace(TINY, head="multiscale")),
    "bottleneck": (16, ModelConfig("resnet50", width=16)),
    "imagenet stem": (64, replace(TINY, stem="imagenet")),
    "views": (32, replace(TINY, stem="imagenet", head="multiscale", drop_path=0.2, score_scales=(24, 64))),
    "averages": (32, replace(TINY, stem="imagenet", head="multiscale", score_scales=(24, 64))),
    "flips": (16, replace(TINY, score_flips="dihedral")),
}
ROUNDING = 3e-5  # 50 layers that have learned nothing tell near images apart, and rounding with them
Pixels = np.ndarray


def lively(size: int, config: ModelConfig, photograph: Image.Image, averages: Sequence[int] = ()) -> Classifier:
    """Every layer has a say, and its logits have mean 0 and deviation 1 over images. Ways to compute 0 and 1 would
    agree too easily.
    """
    ours = a_classifier(size, config)
    network = sized(build(config, size=size, classes=3, seed=5), averages)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.3, 0.7)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
    x = to_input(torch.from_numpy(parts_of(photograph, size, 24)), ours.normalisation)
    with torch.no_grad():
        network.train()
        for _ in range(20):  # batch norm's statistics become those of these images
            for side in averages or [size]:
                network(resize_batch(x, side))
        logits = network.eval()(x)
        last = network.at(size).fc
        last.bias.sub_(logits.mean(0)).div_(logits.std(0))
        last.weight.div_(logits.std(0)[:, None])
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return replace(ours, network=network, calibration=Calibration(temperature=0.6))


def parts_of(photograph: Image.Image, size: int, count: int) -> Pixels:
    gray = np.asarray(photograph.convert("L"))
    return np.stack([gray[k * 11 : k * 11 + size, 40 + 5 * k : 40 + 5 * k + size] for k in range(count)])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("onednn", [4, None])
def test_a_folded_network_is_the_same_function(name: str, onednn: int | None, photograph: Image.Image) -> None:
    size, config = NETWORKS[name]
    ours = lively(size, config, photograph, (24, 48) if name == "averages" else ())
    before = {key: value.clone() for key, value in ours.network.state_dict().items()}
    pixels = parts_of(photograph, size, 9)
    own = ours.probabilities(pixels)
    assert np.ptp(own, axis=0).max() > 0.01  # they are not all alike
    folded = engines.folded(ours, onednn)
    for count in (9, 1, 4):
        np.testing.assert_allclose(folded.probabilities(pixels[:count]), own[:count], atol=ROUNDING)
    assert all(torch.equal(value, before[key]) for key, value in ours.network.state_dict().items())
    np.testing.assert_array_equal(ours.probabilities(pixels), own)


def test_small_images_are_products_and_others_are_not() -> None:
    network = tiny(size=16)
    folded = fold(network, [16, 32])
    products = {name: sorted(module.products) for name, module in folded.named_modules() if isinstance(module, Step)}
    last = {name: sides for name, sides in products.items() if name.startswith("layer4") and sides}
    assert last == {"layer4.0.steps.1": ["2"]}  # of 32 pixels 4x4 are left, and the first one of the stage strides
    assert not any(sides for name, sides in products.items() if not name.startswith("layer4"))
    assert sides_of(network, [16])[network.conv1] == {16}
    # A side that it was not folded for is computed all the same.
    x = torch.rand(2, 1, 24, 24)
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), network(x), atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="used on x86 alone")
def test_this_torch_has_the_operations_of_onednn() -> None:
    """If this fails after an update of torch, folding still works, and is slower: look for their new names."""
    assert has_onednn()


@pytest.fixture(scope="module")
def classifier(photograph: Image.Image) -> Classifier:
    return that_knows(lively(16, TINY, photograph), parts_of(photograph, 16, 24))


def that_knows(ours: Classifier, pixels: Pixels) -> Classifier:
    """The same, with what tells unknown images: distances of the size of the features' spread, and of both kinds."""
    features = torch.from_numpy(ours.features(pixels))
    last = ours.network.at(16).fc.in_features
    whitening = torch.diag(1 / features.std(0).clamp_min(features.std(0).mean()))
    directions, early = whitening[:last, :20].contiguous(), whitening[last:, last:].contiguous()
    means = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    novelty = Novelty(
        0.05, features.mean(0), directions, means, torch.full((20,), 0.5), early, torch.ones(3, len(early)),
        torch.tensor([1.0, 2.0, 3.0, 4.0]), np.arange(9, dtype=np.float32),
    )  # fmt: skip
    return replace(ours, novelty=novelty)


@pytest.fixture(scope="module")
def opened(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Engine]:
    """Each engine, opened when it is first asked for, with batches of four images."""
    folder = tmp_path_factory.mktemp("engines")

    class Opened(dict[str, Engine]):
        def __missing__(self, name: EngineName) -> Engine:
            if name == "torch":
                self[name] = open_torch(classifier, 4)
            elif name == "compile":
                self[name] = open_compiled(classifier, 4)
            else:
                path = folder / "model.onnx"
                if not path.exists():
                    engines.write_file(classifier, "parts", "7", path)
                self[name] = open_file(name, path, 3, 2, 4, classifier.novelty)
            return self[name]

    return Opened()


ALL = [
    pytest.param("torch"),
    pytest.param("compile", marks=pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")),
    pytest.param("onnx", marks=pytest.mark.onnx),
    pytest.param("openvino", marks=pytest.mark.onnx),
]


@pytest.mark.parametrize("name", ALL)
def test_an_engine_says_what_the_classifier_says_of_any_number_of_images(
    name: str, opened: dict[str, Engine], classifier: Classifier, photograph: Image.Image
) -> None:
    pixels = parts_of(photograph, 16, 11)
    own, engine = classifier.probabilities(pixels), opened[name]
    assert (engine.name, engine.batch_size) == (name, 4)
    for count in (11, 4, 1, 0):
        found = engine.run(pixels[:count])
        assert found.dtype == np.float32
        assert found.shape == (count, 3)
        np.testing.assert_allclose(found, own[:count], atol=1e-5)
    np.testing.assert_allclose(engine.run(pixels[::-2]), own[::-2], atol=1e-5)  # not contiguous


@pytest.mark.parametrize("name", ALL)
def test_an_engine_measures_the_distances_that_the_classifier_measures(
    name: str, opened: dict[str, Engine], classifier: Classifier, photograph: Image.Image
) -> None:
    pixels = parts_of(photograph, 16, 11)
    own, engine = classifier.answer(pixels), opened[name]
    assert own[1] is not None
    assert np.ptp(own[1]) > 0.1  # they are not all alike
    assert engine.answer is not None
    for count in (11, 4, 1, 0):
        shares, distances = engine.answer(pixels[:count])
        assert distances is not None
        np.testing.assert_allclose(shares, own[0][:count], atol=1e-5)
        np.testing.assert_allclose(distances, own[1][:count], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("config", [replace(TINY, score_flips="dihedral"), replace(TINY, score_scales=(12, 24))])
def test_distances_are_of_the_mean_over_the_views(config: ModelConfig, photograph: Image.Image) -> None:
    pixels = parts_of(photograph, 16, 6)
    ours = that_knows(lively(16, config, photograph), pixels)
    own, found = ours.answer(pixels)[1], engines.folded(ours).answer(pixels)[1]
    assert own is not None
    np.testing.assert_allclose(found, own, rtol=1e-3, atol=1e-3)
    if config.score_flips == "dihedral":
        np.testing.assert_allclose(ours.answer(np.ascontiguousarray(pixels[:, ::-1]))[1], own, rtol=1e-3, atol=1e-3)
    alone = replace(ours, config=replace(config, score_flips="none", score_scales=())).answer(pixels)[1]
    assert not np.allclose(alone, own, rtol=0.01)


@pytest.mark.onnx
def test_a_file_without_features_has_no_distances(
    classifier: Classifier, photograph: Image.Image, tmp_path: Path
) -> None:
    engines.write_file(replace(classifier, novelty=None), "parts", "7", tmp_path / "old.onnx")
    for name in ("onnx", "openvino"):
        engine = open_file(name, tmp_path / "old.onnx", 3, 2, 4, classifier.novelty)  # type: ignore[arg-type]
        assert engine.answer is not None
        shares, distances = engine.answer(parts_of(photograph, 16, 5))
        assert (shares.shape, distances) == ((5, 3), None)


@pytest.mark.parametrize("name", ALL)
def test_threads_that_call_at_once_get_their_own_images_answers(
    name: str, opened: dict[str, Engine], classifier: Classifier, photograph: Image.Image
) -> None:
    pixels = parts_of(photograph, 16, 24)
    own, run, usual = classifier.probabilities(pixels), opened[name].run, torch.get_num_threads()
    with ThreadPoolExecutor(4) as threads:
        starts = [k % 12 for k in range(60)]
        found = list(threads.map(lambda start: run(pixels[start : start + 9]), starts))
    for start, shares in zip(starts, found, strict=True):
        np.testing.assert_allclose(shares, own[start : start + 9], atol=1e-5)
    assert torch.get_num_threads() == usual


def test_one_thread_is_each_callers_own_and_is_given_back() -> None:
    usual, inside, leave = torch.get_num_threads(), threading.Barrier(3), threading.Event()
    try:
        torch.set_num_threads(3)
        seen: list[tuple[int, int]] = []

        def call() -> None:
            with one_thread():
                within = torch.get_num_threads()
                inside.wait()
                leave.wait()
            seen.append((within, torch.get_num_threads()))

        callers = [threading.Thread(target=call) for _ in range(2)]
        for caller in callers:
            caller.start()
        inside.wait()
        assert torch.get_num_threads() == 3  # who does not ask keeps what they have
        leave.set()
        for caller in callers:
            caller.join()
        assert seen == [(1, 3), (1, 3)]
        with pytest.raises(ZeroDivisionError):
            alone(lambda pixels: 1 / 0)(np.zeros(1))  # type: ignore[arg-type, return-value]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(usual)


def test_what_is_no_engine_or_cannot_run_here_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_engine("--engine", "torch", torch.device("cuda")) == "torch"
    with pytest.raises(UserError, match=r"unknown engine 'openvin'\. Did you mean 'openvino'"):
        check_engine("--engine", "openvin", CPU)
    with pytest.raises(UserError, match=r"--engine onnx: computes on the CPU.*GRAYLINE_DEVICE=cpu"):
        check_engine("--engine", "onnx", torch.device("cuda"))
    monkeypatch.setattr(export_formats, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"GRAYLINE_ENGINE int8: needs onnx.*grayline\[onnx\]"):
        check_engine("GRAYLINE_ENGINE", "int8", CPU)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="needs a C"):
        check_engine("--engine", "compile", CPU)


_FIRST_CALLS = """
import sys, threading
sys.setswitchinterval(1e-6)
from pathlib import Path
import numpy as np
from resnet_core.inference.engines import open_file
engine = open_file("openvino", Path(sys.argv[1]), 3, 4, 1)
together = threading.Barrier(4)
def first():
    together.wait()
    engine.run(np.zeros((1, 8, 8), np.uint8))
threads = [threading.Thread(target=first) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.onnx
def test_first_calls_of_openvino_in_several_threads_do_not_wait_for_each_other(
    photograph: Image.Image, tmp_path: Path
) -> None:
    """Cold, four of five such processes hung: one thread had Python's lock, one C++'s of a static."""
    write_file(lively(8, TINY, photograph), "d", "1", tmp_path / "model.onnx")
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", _FIRST_CALLS, str(tmp_path / "model.onnx")],
            cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_a_batch_that_does_not_fit_is_halved_until_it_does() -> None:
    tried: list[int] = []

    def work(images: int) -> None:
        tried.append(images)
        if images > 100:
            raise torch.OutOfMemoryError("full")

    assert _cuda.fitting(work, 1024) == 64
    assert tried == [1024, 512, 256, 128, 64]
    with pytest.raises(torch.OutOfMemoryError):
        _cuda.fitting(lambda images: work(1000), 4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_says_what_the_cpu_says(photograph: Image.Image, tmp_path: Path) -> None:
    pixels = parts_of(photograph, 64, 30)
    ours = that_knows(lively(64, ModelConfig("resnet18", width=32), photograph), pixels)
    own, far = ours.answer(pixels)
    ours.save(tmp_path)
    engine = open_torch(Classifier.load(tmp_path, "cuda"), 8)
    assert engine.batch_size == 8
    with ThreadPoolExecutor(3) as threads:
        for found in threads.map(engine.run, [pixels] * 6):
            np.testing.assert_allclose(found, own, atol=1e-5)
    assert engine.run(pixels[:0]).shape == (0, 3)
    assert engine.answer is not None
    np.testing.assert_allclose(engine.answer(pixels)[1], far, rtol=1e-3, atol=1e-3)
