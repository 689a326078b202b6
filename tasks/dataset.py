"""The data set file: one pydantic model over the domain's own settings, read from YAML."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from resnet_core.annotations.people import Annotators
from resnet_core.catalog.splits import SplitConfig
from resnet_core.drift.checks import ChecksConfig
from resnet_core.drift.drift import Thresholds
from resnet_core.errors import UserError, nearest
from resnet_core.evaluation.decide import FALSE_ALARM, MISSED, class_costs, class_recalls
from resnet_core.evaluation.metrics import GATE_METRICS
from resnet_core.images.levels import Percentiles
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.model import pretrained
from resnet_core.model.resnet import ModelConfig, find_stem
from resnet_core.storage.locations import from_home
from resnet_core.storage.names import MODEL_NAME, fold_label
from resnet_core.training import search_space
from resnet_core.training.config import Recipe, TrainConfig, with_recipe
from resnet_core.training.search_space import Value
from tasks.validation import (
    AUTO,
    invalid,
    public_texts,
    read_yaml,
    validate,
    value_at,
    with_value,
    without_auto,
)


class CardConfig(BaseModel):
    """Facts that only the owner of the data knows, for the card of each version."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    intended_use: str = Field("", description="What the model's answers are used for, and by whom.")
    limits: str = Field("", description="What it must not be used for, and where it is known to be wrong.")
    licence: str = Field("", description="The licence of the images.")


_Promote = Literal["not_worse", "better"]
# At 0.7 and the default margin, with 2,000 held-out images, an equal version gets in on two nights of three.
# A version that is 3 points worse gets in on one night of a hundred at most.
# Measured by `python -m benchmarks gate`.
_CONFIDENCE: dict[_Promote, float] = {"not_worse": 0.7, "better": 0.95}


class Gate(BaseModel):
    """The requirements for a new champion. A check that is null or false is off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    promote: _Promote = Field(
        "not_worse",
        description="better: shown to be better than the champion; not_worse: shown to be within the margin.",
    )
    metric: str = Field("accuracy", description=f"The metric that decides: {', '.join(GATE_METRICS)}.")
    minimum: float = Field(
        0.5, ge=0, le=1, description="The floor: below it nothing is promoted. 0: without evidence, with a warning."
    )
    held_out: int | None = Field(
        20, ge=1, description="The least held-out images; each class needs some, and groups, if given, must be 5."
    )
    baseline: bool = Field(True, description="Whether a version must beat the constant answer, 99.5% sure.")
    recall: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        {}, description="<class>: the least recall on the held-out images, as a batch decides."
    )
    margin: float = Field(
        0.01, ge=0, le=1, description="How far below the champion, on the same images, counts as not worse."
    )
    confidence: float | None = Field(
        None, ge=0.5, lt=1, description="With which that is shown; by default 0.95 for better, 0.7 for not_worse."
    )
    slice_margin: float | None = Field(
        0.05, ge=0, le=1, description="How far below the champion a slice's accuracy may be, shown with 0.95."
    )
    calibration: float | None = Field(None, ge=0, le=1, description="The largest expected calibration error.")
    speed: float | None = Field(None, gt=0, description="The least share of the champion's images/s.")
    int8: float | None = Field(
        None, ge=0, le=1, description="The largest loss of accuracy at which a batch may score in int8; null: never."
    )
    flips: float | None = Field(
        None, ge=0, le=1, description="The largest share of the last batches' decisions that may flip; null: any."
    )
    flips_images: int = Field(1000, ge=1, le=100_000, description="Images of the last batches to compare for that.")
    data_checks: bool = Field(False, description="A night whose data checks warn promotes nothing.")

    @field_validator("metric")
    @classmethod
    def _metric_is_known(cls, name: str) -> str:
        if name not in GATE_METRICS:
            hint = nearest(name, list(GATE_METRICS))
            raise ValueError(f"gate.metric: unknown metric {name!r}.{hint} Known: {', '.join(GATE_METRICS)}")
        return name

    def demands(self, check: str) -> bool:
        """Return whether `held_out` or `baseline` refuses: a minimum of 0 asks for no evidence, unless they are set."""
        return self.minimum > 0 or check in self.model_fields_set

    @property
    def level(self) -> float:
        """Return the confidence, by default that of the policy."""
        return _CONFIDENCE[self.promote] if self.confidence is None else self.confidence


class EvaluateConfig(BaseModel):
    """The columns that break accuracy down, and the costs, recalls and coverage behind a decision."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slices: list[str] = Field(
        ["brightness", "contrast", "sharpness", "width"],
        description="Columns of the catalog, or any others of the labels, by which accuracy is broken down.",
    )
    costs: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="missed_<class>: what it costs to miss it; false_alarm: the same of the other classes."
    )
    recall: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field(
        {}, description="<class>: the share of its images that is to be recognised."
    )
    coverage: float | None = Field(
        0.95, gt=0, lt=1, description="The share of images whose prediction set has the true class; null: no sets."
    )
    novelty: float | None = Field(
        0.05, gt=0, lt=1, description="The share of known images that may be called unknown; null: none is."
    )

    @field_validator("costs", "recall")
    @classmethod
    def _classes_are_spelt_in_one_way(cls, shares: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        front = MISSED if info.field_name == "costs" else ""
        names = [front * key.startswith(front) + fold_label(key.removeprefix(front)) for key in shares]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"evaluate.{info.field_name}.{twice}: is there twice, in two spellings. Keep one")
        return dict(zip(names, shares.values(), strict=True))

    @model_validator(mode="after")
    def _costs_are_of_misses(self) -> "EvaluateConfig":
        for key in self.costs:
            if key != FALSE_ALARM and not key.startswith(MISSED):
                meant = nearest(key, [FALSE_ALARM]) or f" Write `{MISSED}{key}: ...`"
                raise ValueError(f"evaluate.costs.{key}: is neither {MISSED}<class> nor {FALSE_ALARM}.{meant}")
        return self

    def check(self, classes: Sequence[str], columns: Sequence[str]) -> None:
        """Raises UserError for settings that the data cannot meet. columns: those that may be sliced by."""
        class_costs(self.costs, classes)
        class_recalls(self.recall, classes)
        for name in self.slices:
            if name not in columns:
                raise UserError(
                    f"evaluate.slices: there is no column {name!r}.{nearest(name, list(columns))} "
                    f"Known: {', '.join(columns)}."
                )


class Dataset(BaseModel):
    """A data set file; every part but `name` and `source` has defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Lower-case letters, digits, - and _; also the model's name.")
    source: str = Field(
        description="Folder, glob, tar, zip, IDX, Parquet with image bytes, or CSV/Parquet manifest; relative to the "
        "working folder, or a URL."
    )
    labels: str | None = Field(
        None,
        description="CSV or Parquet with path,label[,split][,group][,weight][,soft_label], or an export of a tool.",
    )
    annotators: Annotators = Field(
        "agree", description="Answers of several people for an image, in exports: agree, or majority."
    )
    label_column: str | None = Field(
        None,
        description="The column of the classes in a table of `source` or `labels`; null: `label`, else the only one of "
        "labels, fine_label, coarse_label, target, class.",
    )
    corrections: str | None = Field(
        None,
        description="Files as `labels`, or a folder or glob of them: labels that win over all others, of images that "
        "need not lie in the source. `grayline gallery` and `grayline review` make them.",
    )
    manifest_roots: list[str] = Field(
        [], description="Folders and URLs whose files tables may name, beside those under their own source."
    )
    smallest_side: int = Field(4, ge=1, description="Images whose shorter side has fewer pixels are quarantined.")
    minimum_images: int = Field(
        8, ge=1, description="Classes with fewer good images wait; 4 if fewer than two have 8, unless the key is set."
    )
    quarantine_limit: float = Field(0.2, ge=0, le=1, description="Share of quarantined images that fails the night.")
    encrypt: bool = Field(False, description="Encrypt everything that holds pixels, with the key of GRAYLINE_KEYS.")
    image: Preprocessing = Preprocessing()
    checks: ChecksConfig = ChecksConfig()
    split: SplitConfig = SplitConfig()
    recipe: Recipe = Field("fast", description="Whose values `model` and `train` have where they are not given.")
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    tune: dict[str, list[Value]] = Field(
        {},
        description="What `grayline tune` searches: keys of `model`, `train` and `train.augment`, and lists of values.",
    )
    evaluate: EvaluateConfig = EvaluateConfig()
    gate: Gate = Gate()
    drift: Thresholds = Field(
        Thresholds(), description="How far a batch may be from the training data; null: measured, never drift."
    )
    card: CardConfig = Field(CardConfig(), description="What stands on each version's card.")
    _auto: frozenset[str] = PrivateAttr(frozenset())
    _chosen: str = PrivateAttr("")

    @property
    def auto(self) -> frozenset[str]:
        """Return the keys whose values are to be chosen; until then they have placeholders."""
        return self._auto

    @property
    def chosen(self) -> str:
        """Return what was chosen for keys that were `auto`, and why."""
        return self._chosen

    def given(self) -> dict[str, Any]:
        """Return the values of the keys that may be `auto` and are not."""
        return {key: value_at(self, key) for key in AUTO if key not in self._auto}

    def settled(self, values: Mapping[str, Any], why: str) -> "Dataset":
        """Return the data set with these values for its keys that are `auto`; nothing is left to choose."""
        parts: dict[str, Any] = {"image": self.image, "model": self.model, "train": self.train}
        for key in self._auto & values.keys():
            part, _, rest = key.partition(".")
            parts[part] = with_value(parts[part], rest, values[key])
        found = self.model_copy(update=parts | {"train": dataclasses.replace(parts["train"], minutes=None)})
        found._auto, found._chosen = frozenset(), why
        return found

    @classmethod
    def recorded(cls, content: Any) -> "Dataset":
        """Return the data set of a training's record: all its values were decided then."""
        return cls.model_validate(content).settled({}, "")

    @field_validator("name")
    @classmethod
    def _name_is_plain(cls, name: str) -> str:
        if not MODEL_NAME.fullmatch(name):
            raise ValueError(f"name: {name!r} cannot name a model. Write 1 to 100 lower-case letters, digits, - and _")
        return name

    @field_validator("source", "labels", "corrections")
    @classmethod
    def _home_is_spelt_out(cls, place: str | None) -> str | None:
        if place is not None and not place.strip():
            raise ValueError("an empty text is no path: give it, or remove the key")
        return from_home(place) if place else place

    @model_validator(mode="wrap")
    @classmethod
    def _the_recipe_lies_below(cls, content: Any, handler: ModelWrapValidatorHandler["Dataset"]) -> "Dataset":
        if not isinstance(content, dict):
            return handler(content)
        content = with_recipe(public_texts(content))
        found = handler(without_auto(content))
        auto = frozenset(key for key in AUTO if value_at(content, key) in (None, "auto"))
        if found.train.minutes and "train.epochs" not in auto:
            raise ValueError("train.minutes and train.epochs say the same: keep one")
        found._auto = auto
        return found

    @model_validator(mode="after")
    def _ranges_are_decided_by_an_ingest(self) -> "Dataset":
        if self.image.decided != Preprocessing().decided:
            raise ValueError("image.decided: unknown key. Set `image.levels`")
        levels = self.image.levels
        span = levels.percentiles if isinstance(levels, Percentiles) else levels
        if isinstance(span, tuple) and not all(map(math.isfinite, span)):
            raise ValueError("image.levels: black and white are finite numbers, as in [0, 4095]")
        if isinstance(span, tuple) and span[0] >= span[1]:
            raise ValueError(f"image.levels: black comes first and is lower, as in [{span[1]:g}, {span[0]:g}]")
        return self

    @model_validator(mode="after")
    def _some_images_are_left_for_training(self) -> "Dataset":
        if self.split.test + self.split.validation >= 1:
            raise ValueError("split: test and validation together must be below 1")
        return self

    @model_validator(mode="after")
    def _classes_are_balanced_once(self) -> "Dataset":
        train = self.train
        ways = {
            "logit_adjustment": train.logit_adjustment > 0,
            "class_weights": train.class_weights == "balanced",
            "sampling": train.sampling == "balanced",
        }
        if ways["logit_adjustment"] and sum(ways.values()) > 1:
            found = " and ".join(f"train.{name}" for name, chosen in ways.items() if chosen)
            raise ValueError(f"{found} do the same for rare classes, and together too much: keep one")
        return self

    @model_validator(mode="after")
    def _what_is_tuned_may_be_set(self) -> "Dataset":
        for key, part in search_space.parse(self.tune).items():
            for value in search_space.ends(part):
                model, train = search_space.apply(self.model, self.train, {key: value})
                try:
                    TypeAdapter(ModelConfig).validate_python(dataclasses.asdict(model))
                    TypeAdapter(TrainConfig).validate_python(dataclasses.asdict(train))
                except ValidationError as error:
                    raise ValueError(f"tune.{key}: {invalid(error)}") from None
        return self


def load_dataset(path: str | Path) -> Dataset:
    """Read and check a data set file. Raises UserError that names the file, the key and the remedy."""
    try:
        text = Path(from_home(str(path))).read_text(encoding="utf-8")
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder. Make a data set file of it by `grayline init {path}`.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not text in UTF-8. Save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Give the path of a data set file.") from None
    try:
        content = read_yaml(text)
        if not isinstance(content, dict):
            raise UserError("a data set file is a mapping that begins with `name:` and `source:`.")
        found = validate(content, Dataset)
        pretrained.check(found.model, find_stem(found.model, found.image.size))
    except UserError as error:
        raise UserError(*(f"{path}: {line}" for line in error.args)) from None
    return found
