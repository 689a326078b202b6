"""Data set files: what is right is taken, what is wrong is said in one line with its remedy."""

from pathlib import Path

import pytest

from resnet_core.errors import UserError
from resnet_core.evaluation.metrics import GATE_METRICS
from tasks.dataset import load_dataset

DATA = Path(__file__).parents[2] / "data"


@pytest.mark.parametrize("name", ["elpv", "digits"])
def test_the_files_in_data_are_valid(name: str) -> None:
    dataset = load_dataset(DATA / f"{name}.yaml")
    assert dataset.name == name


def test_five_lines_are_enough(tmp_path: Path) -> None:
    path = tmp_path / "parts.yaml"
    path.write_text("name: parts\nsource: data/raw/parts\n")
    dataset = load_dataset(path)
    assert (dataset.image.size, dataset.split.test, dataset.train.optimizer) == (96, 0.25, "muon")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nsource: b\ntrain: {epohcs: 3}", "train.epohcs: unknown key. Did you mean 'epochs'?"),
        ("name: a\nsorce: b", "sorce: unknown key. Did you mean 'source'? (1 more)"),
        ("name: a\nsource: b\ngate: {metrics: x}", "gate.metrics: unknown key. Did you mean 'metric'?"),
        (
            "name: a\nsource: b\ngate: {metric: macro_f}",
            "gate.metric: unknown metric 'macro_f'. Did you mean 'macro_f1'?",
        ),
        ("name: a\nsource: b\ngate: {metric: nll}", f"Known: {', '.join(sorted(GATE_METRICS))}."),
        ("name: a\nsource: b\ntrain: {flips: none}", "train.flips: unknown key. It belongs to train.augment."),
        (
            "name: a\nsource: b\nimage: {zzz: 1}",
            "image.zzz: unknown key. Known: size, resize, background, decode, levels, beyond.",
        ),
        ("name: a", "source: is missing. Add `source: ...`."),
        ("name: a\nsource: b\nimage: {size: 3}", "image.size: input should be greater than or equal to 8, not 3."),
        ("name: a\nsource: b\nmodel: {arch: vgg}", "model.arch: input should be 'resnet10', 'resnet14'"),
        ("name: Ab\nsource: b", "name: string should match pattern"),
        ("name: a\nsource: b\nsplit: {test: 0.6, validation: 0.4}", "split: test and validation together"),
        (
            "name: a\nsource: b\ntrain: {logit_adjustment: 0.5, sampling: balanced}",
            "train.logit_adjustment and train.sampling do the same",
        ),
        ("name: a\nsource: b\nevaluate: {slice: [x]}", "evaluate.slice: unknown key. Did you mean 'slices'?"),
        ("name: a\nsource: b\nevaluate: {coverage: 95}", "evaluate.coverage: input should be less than 1, not 95."),
        ("name: a\nsource: b\nevaluate: {costs: {missed_x: -1}}", "evaluate.costs.missed_x: input should be greater"),
        ("name: a\nsource: b\nevaluate: {costs: {false_alram: 1}}", "Did you mean 'false_alarm'?"),
        ("name: a\nsource: b\nevaluate: {costs: {defective: 1}}", "nor false_alarm. Write `missed_defective: ...`."),
        ("name: [", "line 1: is no YAML"),
        ("- a", "a data set file is a mapping"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_dataset(path)
    assert str(caught.value).startswith(f"{path}:")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read"):
        load_dataset(tmp_path / "none.yaml")
