"""Every machine and engine is held to the answers that the gate saw; one that decides otherwise is not used."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from resnet_core.errors import JobError, UserError
from resnet_core.export import onnx_file
from resnet_core.inference import engines
from resnet_core.inference.answers import Answers
from resnet_core.inference.engines import Engine
from resnet_core.model.classifier import Classifier
from tasks.batch import engine, engine_trials
from tasks.batch.values import EngineChoice
from tasks.registry import int8_file
from tasks.registry.int8_file import Int8
from tasks.registry.patience import RegistryError
from tasks.values import ModelVersion
from tests.tasks.batch.test_engine import LONG, choose, classifier, keep, model, opened

__all__ = ["choose", "classifier", "model"]
pytestmark = pytest.mark.usefixtures("prefect", "store")

Digits = tuple[np.ndarray, list[str]]
Choose = Callable[..., EngineChoice]
KEPT = 200


@pytest.fixture
def answers(choose: Choose, classifier: Classifier, digits: Digits, monkeypatch: pytest.MonkeyPatch) -> Answers:
    """What the gate saw, on another machine: digits that are not the batch's, in float32, with other last digits."""
    pixels = digits[0][500 : 500 + KEPT]
    last = classifier.network.fc  # so that no class is the answer for all
    last.weight.data *= 5
    for _ in range(3):
        last.bias.data -= torch.from_numpy(np.log(classifier.probabilities(pixels)).mean(0))
    assert np.unique(classifier.probabilities(pixels).argmax(1)).size == 3
    made = Answers(pixels, classifier.probabilities(pixels) + np.float32(1e-6))
    keep(monkeypatch, made)
    return made


def swapped(found: np.ndarray, count: int) -> np.ndarray:
    """Other decisions for the first images."""
    other = found.copy()
    other[:count] = np.roll(found[:count], 1, axis=1)
    return other


def wrong_on_kept(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """An engine that agrees on the batch's own images: only the kept answers tell."""
    open_file = engines.open_file

    def opening(*how: object) -> Engine:
        made = open_file(*how)  # type: ignore[arg-type]
        return replace(made, run=lambda pixels: swapped(made.run(pixels), count * (len(pixels) == KEPT)))

    monkeypatch.setattr(engine_trials, "open_file", opening)


@pytest.mark.onnx
def test_engines_that_decide_as_the_gate_saw_it_are_used(
    choose: Choose, answers: Answers, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", "grayline"):
        choice = choose(LONG)
    found = [(t.name, t.differing, t.compared) for t in choice.trials]
    assert found == [(name, 0, KEPT) for name in ("torch", "onnx", "openvino")]
    assert choice.refused == {}
    assert "engine" not in caplog.text


def test_a_short_batch_too_is_held_to_some_of_the_answers(choose: Choose, answers: Answers) -> None:
    (trial,) = choose(10).trials
    assert (trial.name, trial.differing, trial.compared) == ("torch", 0, 64)


@pytest.mark.onnx
def test_an_engine_that_decides_otherwise_than_the_gate_saw_is_not_used_and_a_line_says_so(
    choose: Choose, answers: Answers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wrong_on_kept(monkeypatch, 2)
    with caplog.at_level("WARNING", "grayline"):
        choice = choose(LONG)
    why = "2 of 200 decisions differ from those that the gate saw, over 1"
    assert (choice.name, choice.refused) == ("torch", {"onnx": why, "openvino": why})
    assert f"engine      onnx is not used here: {why}" in caplog.text
    with pytest.raises(UserError, match=f"--engine onnx: {why}. Use auto"):
        choose(10, "onnx")


@pytest.mark.onnx
@pytest.mark.parametrize(("count", "used"), [(0, True), (4, True), (5, False)])
def test_int8_may_differ_as_far_as_the_gate_saw_and_one_in_a_hundred_more(
    choose: Choose,
    answers: Answers,
    classifier: Classifier,
    model: ModelVersion,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    used: bool,
) -> None:
    """The gate saw 1% differ. This machine's int8 is the float32 file, with other decisions on kept images."""
    path = tmp_path / "int8.onnx"
    engines.write_file(classifier, model.name, model.version, path)
    wrong_on_kept(monkeypatch, count)
    monkeypatch.setattr(engine_trials, "allowed_int8", lambda *where: Int8("digest", 0.01))
    monkeypatch.setattr(engine, "allowed_int8", lambda *where: Int8("digest", 0.01))
    monkeypatch.setattr(int8_file, "_tag_of", lambda *where: {})
    monkeypatch.setattr(engine_trials, "_engine_file", lambda *choice: _Opened(path))
    if used:
        chosen = choose(10, "int8")
        assert (chosen.name, chosen.trials[-1].differing) == ("int8", count)
        return
    with pytest.raises(UserError, match=r"--engine int8: 5 of 200 decisions differ from .* over 4"):
        choose(10, "int8")


class _Opened:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *error: object) -> None:
        pass


@pytest.mark.onnx
def test_bfloat16_is_not_float32(choose: Choose, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO with the precision that it takes by itself on processors with units for it."""
    compiled = onnx_file._compile_openvino

    def rounded(path: Path, hints: dict[str, object]) -> object:
        return compiled(path, hints | {"INFERENCE_PRECISION_HINT": "bf16"})

    monkeypatch.setattr(onnx_file, "_compile_openvino", rounded)
    choice = choose(LONG)
    assert choice.name != "openvino"
    assert set(choice.refused) == {"openvino"}
    assert "differ" in choice.refused["openvino"]


def test_a_machine_that_computes_float32_otherwise_scores_nothing(
    choose: Choose, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(monkeypatch, replace(answers, probabilities=swapped(answers.probabilities, 40)))
    why = r"digits version 3: \d+ of 64 decisions differ from .* over 1 in float32.*Unset ONEDNN_DEFAULT"
    with pytest.raises(JobError, match=why):
        choose(10)


def test_a_version_without_answers_is_compared_here_and_a_line_says_so(
    choose: Choose, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", "grayline"):
        assert choose(10).name == "torch"
    wanted = "digits version 3: no answers were kept with it; engines are compared with float32 on this machine"
    assert wanted in caplog.text


def test_another_machine_than_that_of_the_trial_is_held_to_the_answers_itself(
    choose: Choose,
    model: ModelVersion,
    classifier: Classifier,
    answers: Answers,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    choice = choose(10)
    monkeypatch.setattr(engine_trials, "arithmetic", lambda device: "a processor without VNNI")
    assert opened(replace(choice, batch_size=32), model, classifier).refused is None

    def wrong(own: Classifier, size: int, plain: bool = False) -> Engine:
        return Engine("torch", lambda pixels: swapped(own.probabilities(pixels), 0 if plain else 20), size)

    monkeypatch.setattr(engine_trials, "open_torch", wrong)
    with caplog.at_level("WARNING", "grayline"):
        engine = opened(replace(choice, batch_size=16), model, classifier)
    assert engine.refused
    assert "20 of 200 decisions differ from those that the gate saw" in engine.refused[1]
    assert "torch scores there" in caplog.text
    np.testing.assert_array_equal(engine.run(answers.pixels), classifier.probabilities(answers.pixels))
    # Without answers, float32 is as good there as here; nobody vouches for int8.
    keep(monkeypatch, None)
    assert opened(replace(choice, batch_size=8), model, classifier).refused is None
    monkeypatch.setattr(engine_trials, "_opened", lambda how, *where: Engine(how.name, answers.differing, 8))  # type: ignore[arg-type]
    there = opened(replace(choice, name="int8", batch_size=8), model, classifier)
    assert (there.name, there.refused and there.refused[0]) == ("torch", "int8")


def test_an_error_of_the_registry_is_not_a_refusal_of_int8(choose: Choose, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it one of int8's being allowed: the batch ends, and the same command goes on."""

    def busy(*where: object) -> None:
        raise RegistryError("database is locked")

    monkeypatch.setattr(int8_file, "_tag_of", busy)
    monkeypatch.setattr(engine_trials, "can_run", lambda name, device: name == "int8")
    with pytest.raises(RegistryError, match="database is locked"):
        choose(LONG)
    monkeypatch.setattr(engine, "check_engine", lambda option, wanted, device: wanted)
    with pytest.raises(RegistryError, match="database is locked"):
        choose(10, "int8")
