"""The search space: what is written in a data set file is what is searched. The found values can be pasted."""

from dataclasses import replace

import pytest

from resnet_core.model.resnet import ModelConfig
from resnet_core.training import search_space
from resnet_core.training.augment import AugmentConfig
from resnet_core.training.config import TrainConfig
from resnet_core.training.search_space import Between, OneOf, Value, parse


def test_two_numbers_are_a_range_and_anything_else_a_choice() -> None:
    assert parse({"lr": [0.01, 0.5]}) == {"lr": Between(0.01, 0.5, log=True, step=None)}
    assert parse({"shift": [0, 0.2]}) == {"shift": Between(0.0, 0.2, log=False, step=None)}
    assert parse({"batch_size": [16, 64]}) == {"batch_size": Between(16.0, 64.0, log=False, step=1)}
    assert parse({"width": [16, 64]}) == {"width": Between(16.0, 64.0, log=False, step=8)}
    assert parse({"batch_size": [16, 32, 64]}) == {"batch_size": OneOf((16, 32, 64))}
    assert parse({"optimizer": ["sgd", "muon"]}) == {"optimizer": OneOf(("sgd", "muon"))}
    assert parse({"lr": ["1e-3", "1e-1"]}) == {"lr": Between(0.001, 0.1, log=True, step=None)}  # as YAML reads 1e-3


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("lrr", [0.1, 0.2], "tune.lrr: cannot be tuned. Did you mean 'lr'?"),
        ("epochs", [1, 2], "tune.epochs: cannot be tuned"),
        ("minutes", [1, 2], "tune.minutes: cannot be tuned"),
        ("lr", [0.2, 0.1], r"tune.lr: \[0.2, 0.1\] is not a range. Write the smaller number first"),
        ("lr", [], "tune.lr: is empty"),
    ],
)
def test_what_cannot_be_searched_is_said(key: str, values: list[Value], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse({key: values})


@pytest.mark.parametrize("train", [TrainConfig(), TrainConfig(weight_decay=0.0, batch_size=2, lr=1e-4)])
def test_the_space_around_settings_has_them_in_it(train: TrainConfig) -> None:
    space = parse(search_space.around(train))
    own = search_space.own(ModelConfig(), train, space)
    assert own is None or search_space.apply(ModelConfig(), train, own) == (ModelConfig(), train)
    assert (own is None) == (train.weight_decay == 0)


def test_values_go_where_their_keys_are_and_the_fragment_says_the_same() -> None:
    values: dict[str, Value] = {"width": 32, "lr": 0.02, "mixup": 0.1}
    model, train = search_space.apply(ModelConfig(), TrainConfig(augment=AugmentConfig(flips="both")), values)
    assert model == ModelConfig(width=32)
    assert train == replace(TrainConfig(lr=0.02), augment=AugmentConfig(flips="both", mixup=0.1))
    assert search_space.fragment(values) == {"model": {"width": 32}, "train": {"lr": 0.02, "augment": {"mixup": 0.1}}}
