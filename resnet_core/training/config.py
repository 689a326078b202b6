"""Training settings, and the recipes that give them values.

The defaults of `TrainConfig` are the recipe `fast`; other recipes change some of them. A data set file names a recipe
and overrides single values.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from resnet_core.errors import TrainingError
from resnet_core.training.augment import AugmentConfig

Recipe = Literal["fast", "best"]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the training loop. Shares and probabilities lie between 0 and 1.

    minutes: the time to choose `epochs` by; None once they are chosen.
    lr: the largest rate, reached after `warmup` (a share of the steps): about 0.1 for `sgd`, 0.03 for `muon`, 0.002
      for `adamw`.
    momentum: of `sgd` and `muon`; `adamw` has its own.
    class_weights: `balanced` weighs classes by the inverse of their share.
    sampling: `balanced` draws the classes equally often instead.
    logit_adjustment: the part of the classes' shares that is not learned: 0 for accuracy, 1 for balanced accuracy,
      about 0.5 for macro-F1 (see `_learner.adjustment`).
    ema_decay: of the averaged weights, per step; 0 keeps the last weights.
    clip_gradients: the largest norm of all gradients together; 0 is off.
    early_stopping: epochs without a better validation accuracy, after which the best epoch is taken; 0 is off.
    scales: sides in pixels, drawn for each batch; empty: the side of the stored images.
    progressive: the share of the side with which training begins (see `_progressive`); 0 is off.
    start: `champion` begins with the champion's weights (see `warm_started`).
    precision: `auto` is bfloat16 (on an old GPU float16) where the device has units for it.
    devices: processes that share each batch, a GPU each if there are GPUs.
    compile: torch.compile, on GPUs.
    deterministic: the same weights every time on a GPU too, but slower; a CPU always gives the same.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    epochs: Annotated[int, Ge(1)] = 30
    minutes: Annotated[float, Gt(0)] | None = None
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
    """Put the values of the recipe under those of a data set file. The validation refuses wrong names and types."""
    merged = dict(settings)
    recipe = settings.get("recipe", "fast")
    for part, values in next((parts for name, parts in RECIPES.items() if name == recipe), {}).items():
        own = settings.get(part, {})
        if isinstance(own, dict) and own.get("minutes") is not None:
            values = {key: value for key, value in values.items() if key != "epochs"}
        merged[part] = values | own if isinstance(own, dict) else own
    return merged


def warm_started(config: TrainConfig) -> TrainConfig:
    """Train from trained weights: half the epochs and a third of the rate, which keeps more of the weights."""
    return replace(config, epochs=math.ceil(config.epochs / 2), lr=config.lr / 3)


def no_number(found: str, config: TrainConfig, also: str = "") -> TrainingError:
    """Return the error for numbers that are none: what was found, the rate, the remedy."""
    return TrainingError(
        f"{found}. Lower `train.lr`, now {config.lr:g}, or set `train.clip_gradients: 1`{also}. "
        "No version is made; the checkpoint of the last good epoch stays."
    )
