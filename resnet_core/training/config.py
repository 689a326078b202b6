"""How to train, as data: the settings, and the recipes that give them values.

The defaults of `TrainConfig` are the recipe `fast`; another recipe is what it changes of them. A data
set file names a recipe and overrides what it likes, value by value.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from resnet_core.training.augment import AugmentConfig

Recipe = Literal["fast", "best"]


@dataclass(frozen=True)
class TrainConfig:
    """What the training loop is told. Shares and probabilities lie between 0 and 1.

    lr: the largest rate, reached after `warmup` (a share of the steps); `schedule` leads up and down.
        `sgd` wants about 0.1, `muon` 0.03, `adamw` 0.002.
    momentum: of `sgd` and `muon`; `adamw` has its own.
    class_weights: `balanced` weighs each class by the inverse of its share.
    sampling: `balanced` draws each class equally often instead.
    logit_adjustment: how much of the classes' shares is taken out of what is learned: 0 nothing, for accuracy; 1 all
      of it, for balanced accuracy; about half of it for macro-F1 (see `loss.adjustment`).
    ema_decay: of the averaged weights, per step; 0 keeps the last weights.
    clip_gradients: the largest norm of all gradients together; 0 leaves them as they are.
    early_stopping: epochs without a better validation accuracy after which the best one is taken; 0: never.
    scales: sides in pixels, one of which is drawn for each batch; none: as the images are stored.
    progressive: the share of the side with which training begins (see `sizes`); 0: the whole side.
    start: `champion` begins with the champion's weights (see `warm_started`).
    precision: `auto` is bfloat16 (on an old GPU float16) where the device has units for it.
    devices: processes that share each batch, a GPU each where there are GPUs.
    compile: torch.compile, on GPUs.
    deterministic: the same weights every time on a GPU too, at the cost of speed; a CPU needs no telling.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    epochs: Annotated[int, Ge(1)] = 30
    batch_size: Annotated[int, Ge(2)] = 128
    optimizer: Literal["sgd", "adamw", "muon"] = "muon"
    lr: Annotated[float, Gt(0)] = 0.03
    weight_decay: Annotated[float, Ge(0)] = 0.01
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    schedule: Literal["one_cycle", "cosine"] = "one_cycle"
    warmup: Annotated[float, Gt(0), Lt(1)] = 0.2
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.05
    class_weights: Literal["none", "balanced"] = "none"
    sampling: Literal["natural", "balanced"] = "natural"
    logit_adjustment: Annotated[float, Ge(0), Le(1)] = 0.0
    ema_decay: Annotated[float, Ge(0), Lt(1)] = 0.98
    clip_gradients: Annotated[float, Ge(0)] = 0.0
    early_stopping: Annotated[int, Ge(0)] = 0
    scales: tuple[Annotated[int, Ge(8)], ...] = ()
    progressive: Annotated[float, Ge(0), Le(1)] = 0.0
    augment: AugmentConfig = AugmentConfig()  # noqa: RUF009 (frozen)
    start: Literal["scratch", "champion"] = "scratch"
    precision: Literal["auto", "float32"] = "auto"
    devices: Annotated[int, Ge(1)] = 1
    compile: bool = False
    deterministic: bool = False
    seed: Annotated[int, Ge(0)] = 0


RECIPES: dict[Recipe, dict[str, dict[str, Any]]] = {
    "fast": {},
    "best": {
        "model": {"score_flips": "horizontal"},
        "train": {"epochs": 120, "progressive": 0.5, "ema_decay": 0.99},
    },
}


def with_recipe(settings: dict[str, Any]) -> dict[str, Any]:
    """A data set file's content with the values of its recipe under its own. A name that is no recipe,
    or a part that is no mapping, is left for the validation to complain about."""
    recipe = RECIPES.get(settings.get("recipe", "fast"), {})
    return settings | {part: _over(values, settings.get(part, {})) for part, values in recipe.items()}


def _over(below: dict[str, Any], above: Any) -> Any:
    if not isinstance(above, dict):
        return above
    both = {
        key: _over(below[key], above[key]) if isinstance(below[key], dict) else above[key]
        for key in below.keys() & above.keys()
    }
    return below | above | both


def warm_started(config: TrainConfig) -> TrainConfig:
    """What is left to do from trained weights on: half the epochs, at most a third of the rate, so that
    what they know is not washed out first."""
    return replace(config, epochs=math.ceil(config.epochs / 2), lr=config.lr / 3)
