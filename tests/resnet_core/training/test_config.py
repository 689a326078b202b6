"""Recipes: values under the user's own, part by part and key by key."""

import pytest

from resnet_core.training.config import RECIPES, TrainConfig, warm_started, with_recipe


def test_a_recipe_lies_below_what_the_user_gives() -> None:
    best = RECIPES["best"]["train"]
    given = {"recipe": "best", "train": {"epochs": 7, "augment": {"noise": 0.1}}, "name": "x"}
    found = with_recipe(given)
    assert found["train"] == best | {"epochs": 7, "augment": {"noise": 0.1}}
    assert found["model"] == RECIPES["best"]["model"]
    assert found["name"] == "x"
    assert given["train"] == {"epochs": 7, "augment": {"noise": 0.1}}


@pytest.mark.parametrize("content", [{}, {"recipe": "fast", "train": {"epochs": 3}}, {"recipe": "nonsense"}])
def test_without_a_recipe_nothing_changes(content: dict[str, object]) -> None:
    assert with_recipe(content) == content


def test_what_is_no_mapping_is_left_to_the_validation() -> None:
    assert with_recipe({"recipe": "best", "train": 5})["train"] == 5
    assert with_recipe({"recipe": "best", "train": {"augment": "much"}})["train"]["augment"] == "much"


def test_a_warm_start_takes_half_the_epochs() -> None:
    assert warm_started(TrainConfig(epochs=31)).epochs == 16
    assert warm_started(TrainConfig(epochs=1)).epochs == 1
