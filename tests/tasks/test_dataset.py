"""Data set files: what is right is taken, what is wrong is said in one line with its remedy."""

import dataclasses
import datetime
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

from resnet_core.errors import UserError
from resnet_core.evaluation.metrics import GATE_METRICS
from resnet_core.storage.files import to_path
from resnet_core.storage.locations import absolute
from tasks.dataset import Dataset, load_dataset
from tasks.validation import AUTO, read_yaml

DATA = Path(__file__).parents[2] / "data"


@pytest.mark.parametrize("name", ["elpv", "digits"])
def test_the_files_in_data_are_valid(name: str) -> None:
    dataset = load_dataset(DATA / f"{name}.yaml")
    assert dataset.name == name


def test_five_lines_are_enough(tmp_path: Path) -> None:
    path = tmp_path / "parts.yaml"
    path.write_text("name: parts\nsource: data/raw/parts\n")
    dataset = load_dataset(path)
    assert (dataset.split.test, dataset.train.optimizer) == (0.25, "muon")
    assert dataset.auto == set(AUTO)


@pytest.mark.parametrize("key", AUTO)
def test_auto_is_the_default_and_a_value_is_taken(key: str) -> None:
    def content(value: Any) -> dict[str, Any]:
        *parts, name = key.split(".")
        for part in reversed(["", *parts]):
            value = {name: value}
            name = part
        return {"name": "parts", "source": "x", **value}

    values = {"train.sampling": "natural", "train.augment.flips": "none", "image.size": 64, "model.width": 64}
    value = values.get(key, 7 if key in ("train.epochs", "train.batch_size") else 0.5)
    assert Dataset.model_validate(content("auto")).auto == set(AUTO)
    found = Dataset.model_validate(content(value))
    assert found.auto == set(AUTO) - {key}
    assert found.given() == {key: value}
    assert found.settled(dict.fromkeys(AUTO, 1), "").given()[key] == value


def test_a_recipe_gives_values_and_minutes_win_over_its_epochs() -> None:
    best = Dataset.model_validate({"name": "parts", "source": "x", "recipe": "best"})
    assert set(AUTO) - best.auto == {"train.epochs", "train.ema_decay"}
    short = Dataset.model_validate({"name": "parts", "source": "x", "recipe": "best", "train": {"minutes": 5}})
    assert "train.epochs" in short.auto
    assert short.settled({"train.epochs": 9}, "").train.minutes is None


@pytest.mark.parametrize("name", ["elpv", "elpv-best", "digits"])
def test_the_files_in_data_keep_their_settings(name: str) -> None:
    """What they leave to Grayline is what it was before."""
    dataset = load_dataset(DATA / f"{name}.yaml")
    assert dataset.auto <= {"train.warmup", "train.ema_decay", "train.sampling", "train.logit_adjustment"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nsource: b\ntrain: {epohcs: 3}", "train.epohcs: unknown key. Did you mean 'epochs'?"),
        ("name: a\nsorce: b", "sorce: unknown key. Did you mean 'source'?"),
        ("name: a\nsource: b\ngate: {metrics: x}", "gate.metrics: unknown key. Did you mean 'metric'?"),
        (
            "name: a\nsource: b\ngate: {metric: macro_f}",
            "gate.metric: unknown metric 'macro_f'. Did you mean 'macro_f1'?",
        ),
        ("name: a\nsource: b\ngate: {metric: nll}", f"Known: {', '.join(sorted(GATE_METRICS))}."),
        ("name: a\nsource: b\ntrain: {flips: none}", "train.flips: unknown key. It belongs to train.augment, gate."),
        (
            "name: a\nsource: b\nimage: {zzz: 1}",
            "image.zzz: unknown key. Known: size, resize, background, decode, levels, beyond.",
        ),
        ("name: a", "source: is missing. Add `source: ...`."),
        ("name: a\nsource: b\nimage: {levels: 9}", "image.levels: must be one of 8, 10, 12, 14, 16 or"),
        ("name: a\nsource: b\nimage: {levels: [5, 3]}", "image.levels: black comes first and is lower, as in [3, 5]."),
        ("name: a\nsource: b\nimage: {levels: [0, .inf]}", "image.levels: black and white are finite numbers"),
        ("name: a\nsource: b\nimage: {levels: [.nan, 1]}", "image.levels: black and white are finite numbers"),
        ("name: a\nsource: b\nimage: {decided: {claims: true}}", "image.decided: unknown key. Set `image.levels`."),
        ("name: a\nsource: b\nimage: {size: 3}", "image.size: must be 8 or more, not 3."),
        ("name: a\nsource: b\nmodel: {arch: vgg}", "model.arch: must be one of resnet10, resnet14"),
        ("name: Ab\nsource: b", "name: 'Ab' cannot name a model. Write 1 to 100 lower-case letters"),
        (f"name: {'a' * 101}\nsource: b", "cannot name a model. Write 1 to 100 lower-case"),
        (
            "name: a\nsource: b\ntrain: {epochs: 3, minutes: 20}",
            "train.minutes and train.epochs say the same: keep one",
        ),
        ("name: a\nsource: b\ntrain: {minutes: 0}", "train.minutes: must be above 0, not 0."),
        ("name: a\nsource: b\ntrain: {lr: auto}", "train.lr: must be a number, not 'auto'."),
        ("name: a\nsource: b\nimage: {size: automatic}", "image.size: must be a whole number, not 'automatic'."),
        ("name: a\nsource: b\nsplit: {test: 0.6, validation: 0.4}", "split: test and validation together"),
        (
            "name: a\nsource: b\ntrain: {logit_adjustment: 0.5, sampling: balanced}",
            "train.logit_adjustment and train.sampling do the same",
        ),
        ("name: a\nsource: b\nevaluate: {slice: [x]}", "evaluate.slice: unknown key. Did you mean 'slices'?"),
        ("name: a\nsource: b\nevaluate: {coverage: 95}", "evaluate.coverage: must be below 1, not 95."),
        ("name: a\nsource: b\nevaluate: {costs: {missed_x: -1}}", "evaluate.costs.missed_x: must be above 0, not -1."),
        ("name: a\nsource: b\nevaluate: {costs: {false_alram: 1}}", "Did you mean 'false_alarm'?"),
        ("name: a\nsource: b\nevaluate: {costs: {defective: 1}}", "nor false_alarm. Write `missed_defective: ...`."),
        ("name: a\nsource: b\ntrain: {optimizer: adam}", "not 'adam'. Did you mean 'adamw'?"),
        ("name: a\nsource: b\nquarantine_limit: 0,2", "must be a number, not '0,2'. Write 0.2."),
        ("name: a\nsource: b\ntrain: {epochs: yes}", "train.epochs: must be a number, not true."),
        ("name: a\nsource: b\nevaluate: {costs: {missed_a: yes}}", "costs.missed_a: must be a number, not true."),
        ("name: a\nsource: b\nrecipe: [best]", "recipe: must be one of fast, best, not a list."),
        ("name: 7\nsource: b", 'name: must be text, not 7. Put it in quotes: "7".'),
        ("name: no\nsource: b", "name: must be text; YAML reads its word as false. Put that in quotes."),
        ("name: a\nsource: ~", "source: is empty, and must be text."),
        ("name: a\nsource: ' '", "is no path"),
        ("name: a\nsource: b\ntrain:", "train: is empty, and must be keys with values."),
        ("name: [", "line 1, column 8: cannot be read as YAML"),
        ("name: a\nsource: b\nimage:\n\tsize: 8", "line 4, column 1: cannot be read as YAML: found character '\\t'"),
        ("name: a\nsource: b\nimage:\n\tsize: 8", "Indent with spaces, not with tabs."),
        ("name: a\nsource: C: b", "line 2, column 10: cannot be read as YAML"),
        ("name: a\nsource: @b", "Put the value in quotes."),
        ("name: a\n---\nname: b", "Keep one document"),
        ("name: a\nsource: 2024-13-45", "Put it in quotes."),
        (
            "name: a\nsource: b\nsplit: {test: 0.5}\nsplit: {seed: 3}",
            "line 4: the key 'split' is there twice, first in line 3.",
        ),
        (
            "name: a\nsource: b\ntrain:\n  augment:\n    shift: 0\n    noise: 0\n    shift: 0.1",
            "line 7: the key 'shift'",
        ),
        (
            "name: a\nsource: b\nevaluate: {recall: {yes: 0.9}}",
            'line 3: the key yes is read as true or false, not as a name. Put it in quotes: "yes".',
        ),
        (
            "name: a\nsource: b\nevaluate: {recall: {007: 0.9}}",
            'the key 007 is read as a number, not as a name. Put it in quotes: "007".',
        ),
        ("name: a\nsource: b\nevaluate: {recall: {2024-01-01: 0.9}}", 'Put it in quotes: "2024-01-01".'),
        ("name: a\nsource: b\nevaluate: {recall: {null: 0.9}}", "the key null is read as nothing"),
        ("name: a\nsource: b\nevaluate: {recall: {[/b]: 0.9}}", "Put it in quotes."),
        ("[" * 3000, "is nested too deeply"),
        ("name: \x07", "line 1: holds a control character"),
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


def test_every_problem_has_a_line(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("name: a\nsorce: b\ntrain: {epochs: 0, lr: many}\ngate: {minimum: 2}")
    with pytest.raises(UserError) as caught:
        load_dataset(path)
    assert caught.value.args == (
        f"{path}: sorce: unknown key. Did you mean 'source'?",
        f"{path}: train.epochs: must be 1 or more, not 0.",
        f"{path}: train.lr: must be a number, not 'many'.",
        f"{path}: gate.minimum: must be 1 or less, not 2.",
    )


def every_key(part: Any = Dataset, place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if dataclasses.is_dataclass(part):
        kinds = get_type_hints(part)
    else:
        kinds = {name: field.annotation for name, field in getattr(part, "model_fields", {}).items()}
    for name, kind in kinds.items():
        if not name.startswith("__"):
            yield (*place, name)
            yield from every_key(kind, (*place, name))


WRONG = (
    None, "some words", "", 7, 2.5, -1e9, 1e9, math.inf, math.nan, True, [1], [None], [[]], {"a": 1}, {"a": None},
    {"a": [1]}, {"missed_a": {}}, datetime.date(2024, 1, 1), "0,5", "x" * 1000,
)  # fmt: skip
LIBRARY = re.compile(
    r"input|\bvalid\b|pydantic|pattern|regex|parse|instance|literal|\bstr\b|string|dict|tuple|mapping|NoneType|None\b|"
    r"datetime|integer|boolean|unexpected|extra|argument|union|Traceback|\(\d+ more\)"
)


@pytest.mark.parametrize("place", list(every_key()), ids=".".join)
def test_no_key_answers_in_the_words_of_a_library(tmp_path: Path, place: tuple[str, ...]) -> None:
    path = tmp_path / "x.yaml"
    for value in WRONG:
        content: dict[str, Any] = {"name": "a", "source": "b"}
        part = content
        for name in place[:-1]:
            part = part.setdefault(name, {})
        part[place[-1]] = value
        path.write_text(yaml.safe_dump(content))
        try:
            load_dataset(path)
        except UserError as error:
            for line in error.args:
                said = line.removeprefix(f"{path}: ")
                assert not LIBRARY.search(re.sub(r"(Known|one of)[^.]*|Put it.*", "", said)), said


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.yaml").write_text("name: a\nsource: ~/data\nlabels: ~/labels.csv\ncorrections: ~/c/*.csv\n")
    dataset = load_dataset("~/x.yaml")
    assert (dataset.source, dataset.labels) == (f"{tmp_path}/data", f"{tmp_path}/labels.csv")
    assert dataset.corrections == f"{tmp_path}/c/*.csv"
    assert absolute("~/store") == f"{tmp_path}/store"
    assert to_path("~/out").path == f"{tmp_path}/out"


def test_merged_keys_are_not_given_twice(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("name: a\nsource: b\ntrain: &t {epochs: 3}\nmodel: {}\n")
    assert load_dataset(tmp_path / "x.yaml").train.epochs == 3
    assert read_yaml("a: &a {x: 1}\nb: {<<: *a, x: 2}")["b"] == {"x": 2}


def test_a_folder_given_as_a_data_set_file_is_called_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        load_dataset(tmp_path)


def test_a_file_that_is_not_utf_8_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes("name: a\nsource: été".encode("cp1252"))
    with pytest.raises(UserError, match="Save it as UTF-8"):
        load_dataset(tmp_path / "x.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read"):
        load_dataset(tmp_path / "none.yaml")
