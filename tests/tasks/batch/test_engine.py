"""Which engine a batch gets: the fastest that agrees, where a trial pays. One that is asked for is taken or refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.export.graph import Run
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.inference import engines
from resnet_core.inference.answers import Answers, NoAnswersError
from resnet_core.inference.engines import Engine
from resnet_core.model.classifier import Classifier
from resnet_core.storage.digest import DamagedVersionError
from tasks.batch import engine_trials
from tasks.batch import engine_trials as open_engine
from tasks.batch.engine import choose_engine
from tasks.batch.engine_trials import PAYS, TRIALS
from tasks.batch.values import EngineChoice
from tasks.runner import workers
from tasks.values import ModelVersion
from tests.places import a_workspace
from tests.resnet_core.model.test_classifier import a_classifier

pytestmark = pytest.mark.usefixtures("prefect", "store")

Digits = tuple[np.ndarray, list[str]]
WORKERS = workers()
LONG = 10**9  # files: days


@pytest.fixture
def model(tmp_path: Path) -> ModelVersion:
    """Of each test another one: engines are kept open by a process."""
    return ModelVersion("digits", "3", tmp_path.name)


@pytest.fixture
def classifier() -> Classifier:
    return replace(a_classifier(8), preprocessing=Preprocessing(8))


@pytest.fixture
def choose(
    model: ModelVersion, classifier: Classifier, tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., EngineChoice]:
    """Without torch.compile, which takes a minute; of a version that keeps no answers (see `keep`)."""
    monkeypatch.setitem(PAYS, "compile", float("inf"))
    keep(monkeypatch, None)

    def made(files: int, wanted: str | None = "auto", sample: Callable[[], np.ndarray] | None = None) -> EngineChoice:
        take = sample or (lambda: digits[0][:200])
        return choose_engine.fn(model, classifier, take, files, wanted, a_workspace(UPath(tmp_path / "store")))

    return made


def kept(tmp_path: Path) -> list[dict[str, object]]:
    return [row for path in tmp_path.glob(f"store/engines/*/{TRIALS}") for row in json.loads(path.read_text())]


def opened(choice: EngineChoice, model: ModelVersion, classifier: Classifier) -> Engine:
    return open_engine.open_engine(choice, model, "", classifier)


def without(needed: str) -> Callable[[], np.ndarray]:
    def sample() -> np.ndarray:
        raise AssertionError(needed)

    return sample


def keep(monkeypatch: pytest.MonkeyPatch, answers: Answers | None) -> None:
    """The registry's answers of the version."""

    def answers_of(*where: object) -> Answers:
        if answers is None:
            raise NoAnswersError("no answers were kept with it")
        return answers

    monkeypatch.setattr(engine_trials, "answers_of", answers_of)


def spoiled(monkeypatch: pytest.MonkeyPatch, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """A library that computes something else."""
    open_file = engines.open_file

    def other(*how: object) -> Engine:
        engine = open_file(*how)  # type: ignore[arg-type]
        return replace(engine, run=lambda pixels: change(engine.run(pixels)))

    monkeypatch.setattr(open_engine, "open_file", other)


def test_a_short_batch_takes_torch_and_nothing_is_tried_or_kept(
    choose: Callable[..., EngineChoice], model: ModelVersion, classifier: Classifier, digits: Digits, tmp_path: Path
) -> None:
    choice = choose(10)
    assert (choice.name, choice.workers, choice.plain, choice.file) == ("torch", WORKERS, False, None)
    assert [trial.name for trial in choice.trials] == ["torch"]
    assert choice.speed > 0
    assert kept(tmp_path) == []
    engine = opened(choice, model, classifier)
    np.testing.assert_allclose(engine.run(digits[0][:50]), classifier.probabilities(digits[0][:50]), atol=1e-5)


def test_a_batch_that_shows_no_image_has_an_engine_all_the_same(choose: Callable[..., EngineChoice]) -> None:
    assert choose(10, sample=lambda: np.empty((0, 8, 8), np.uint8)).name == "torch"


@pytest.mark.onnx
def test_a_long_batch_tries_all_once_and_takes_the_fastest(
    choose: Callable[..., EngineChoice], model: ModelVersion, classifier: Classifier, digits: Digits, tmp_path: Path
) -> None:
    choice = choose(LONG)
    tried = {trial.name: trial for trial in choice.trials}
    assert set(tried) == {"torch", "onnx", "openvino"}
    assert not any(trial.wrong for trial in tried.values())
    assert all(trial.difference < 1e-4 and trial.speed > 0 for trial in tried.values())
    fastest = max(tried.values(), key=lambda trial: trial.ratio)
    assert choice.name == (fastest.name if fastest.ratio >= 1.05 else "torch")
    # The next batch knows, however short it is.
    assert choose(10, sample=without("nothing is to be tried")) == choice
    asked = choose(10, "onnx", sample=without("nothing is to be tried"))
    assert asked.name == "onnx"
    found = opened(asked, model, classifier).run(digits[0][:50])
    np.testing.assert_allclose(found, classifier.probabilities(digits[0][:50]), atol=1e-5)


@pytest.mark.onnx
def test_the_environment_names_an_engine_too(
    choose: Callable[..., EngineChoice], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAYLINE_ENGINE", "openvino")
    assert choose(10, None).name == "openvino"
    assert choose(10, "torch").name == "torch"  # the option is nearer


@pytest.mark.onnx
def test_an_engine_that_differs_is_not_used(
    choose: Callable[..., EngineChoice], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spoiled(monkeypatch, lambda found: found + np.float32(2e-4))
    choice = choose(LONG)
    assert choice.name == "torch"
    assert {row["name"]: "differs by 0.0002" in str(row["wrong"]) for row in kept(tmp_path)} == {
        "torch": False,
        "onnx": True,
        "openvino": True,
    }
    with pytest.raises(UserError, match=r"--engine onnx: a probability differs by 0\.0002 .* Use auto"):
        choose(10, "onnx")


@pytest.mark.onnx
def test_an_engine_that_fails_leaves_the_batch_to_torch_and_is_tried_again_the_next_time(
    choose: Callable[..., EngineChoice], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:

        def broken(*how: object) -> Engine:
            raise RuntimeError("no such instruction\nmore of it")

        patch.setattr(open_engine, "open_file", broken)
        assert choose(LONG).name == "torch"
        assert [row["name"] for row in kept(tmp_path)] == ["torch"]
        with pytest.raises(UserError, match=r"--engine onnx: does not work here \(no such instruction\)"):
            choose(10, "onnx")
    assert choose(10, "onnx").name == "onnx"


@pytest.mark.onnx
def test_a_file_that_is_another_is_not_run_and_one_that_is_gone_is_made_again(
    choose: Callable[..., EngineChoice], model: ModelVersion, classifier: Classifier
) -> None:
    choice = choose(10, "onnx")
    assert choice.file is not None
    choice.file.write_bytes(choice.file.read_bytes() + b"\0")
    open_engine._open.cache_clear()  # as another process
    with pytest.raises(DamagedVersionError, match="is not the file that was tried"):
        opened(choice, model, classifier)
    choice.file.unlink()
    again = choose(10, "onnx")
    assert again.name == "onnx"
    assert again.file is not None
    assert again.file.exists()


def test_a_folded_network_that_differs_is_used_as_it_is(
    choose: Callable[..., EngineChoice],
    model: ModelVersion,
    classifier: Classifier,
    digits: Digits,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fold = engines.fold

    def bent(*how: object) -> object:
        network = fold(*how)  # type: ignore[arg-type]
        network.fc.bias.add_(0.01 * torch.arange(3))
        return network

    monkeypatch.setattr(engines, "fold", bent)
    choice = choose(10)
    assert choice.plain
    found = opened(choice, model, classifier).run(digits[0][:50])
    np.testing.assert_array_equal(found, classifier.probabilities(digits[0][:50], choice.batch_size))


def test_a_typo_and_int8_that_nobody_allowed_are_said(choose: Callable[..., EngineChoice]) -> None:
    with pytest.raises(UserError, match=r"--engine: unknown engine 'onx'\. Did you mean 'onnx'"):
        choose(10, "onx")


def test_the_run_that_a_trial_compares_may_give_anything(digits: Digits) -> None:
    own = np.full((4, 3), 1 / 3, np.float32)
    answers: dict[str, tuple[Run, float]] = {
        "no number": (lambda pixels: np.full_like(own, np.nan), np.inf),
        "another shape": (lambda pixels: own[:, :2], np.inf),
        "a little off": (lambda pixels: own + np.float32(0.25), 0.25),
    }
    for run, wanted in answers.values():
        assert engine_trials.engine_trial.difference(run, digits[0][:4], own) == pytest.approx(wanted)
