"""The data set file: one pydantic model over the domain's own settings, read from YAML."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from resnet_core import pretrained, search_space
from resnet_core.data_checks import ChecksConfig
from resnet_core.errors import UserError, nearest
from resnet_core.metrics import METRICS
from resnet_core.preprocessing import Preprocessing
from resnet_core.recipes import Recipe, TrainConfig, with_recipe
from resnet_core.resnet import ModelConfig, find_stem
from resnet_core.search_space import Value
from resnet_core.splits import SplitConfig

GateMetric = Literal["accuracy", "balanced_accuracy", "macro_f1", "roc_auc"]
UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
assert set(get_args(GateMetric)) < set(METRICS)


class Gate(BaseModel):
    """What a new version must show before it becomes the champion."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: GateMetric = "accuracy"
    minimum: float = Field(0.5, ge=0, le=1, description="The floor: below it nothing is promoted.")
    margin: float = Field(
        0.01, ge=0, le=1, description="How far below the champion, on the same images, counts as not worse."
    )


class Dataset(BaseModel):
    """A data set file; every part but `name` and `source` has defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]*$",
        description="Lower-case letters, digits, - and _; also the model's name.",
    )
    source: str = Field(
        description="Folder, glob, tar, zip, IDX, Parquet with image bytes, or CSV/Parquet manifest; relative to the "
        "working folder, or a URL."
    )
    labels: str | None = Field(
        None, description="CSV or Parquet with path,label[,split][,group][,weight][,soft_label]."
    )
    smallest_side: int = Field(4, ge=1, description="Images whose shorter side has fewer pixels are quarantined.")
    quarantine_limit: float = Field(
        0.2, ge=0, le=1, description="The share of quarantined images above which the night fails."
    )
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
    gate: Gate = Gate()

    @model_validator(mode="before")
    @classmethod
    def _the_recipe_lies_below(cls, content: Any) -> Any:
        return with_recipe(content) if isinstance(content, dict) else content

    @model_validator(mode="after")
    def _some_images_are_left_for_training(self) -> "Dataset":
        if self.split.test + self.split.validation >= 1:
            raise ValueError("split: test and validation together must be below 1")
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
                    reason = error.errors()[0]["msg"]
                    raise ValueError(f"tune.{key}: {reason[0].lower()}{reason[1:]}, not {value!r}") from None
        return self


def load_dataset(path: str | Path) -> Dataset:
    """Read and check a data set file. Raises UserError that names the file, the key and the remedy."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Give the path of a data set file.") from None
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise UserError(f"{path}:{line} is no YAML: {getattr(error, 'problem', error)}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: a data set file is a mapping that begins with `name:` and `source:`.")
    try:
        found = Dataset.model_validate(content)
        pretrained.check(found.model, find_stem(found.model, found.image.size))
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error)}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return found


def explain(error: ValidationError) -> str:
    """The worst problem in one line, and how many more there are: a misspelt key before the key that
    seems to be missing because of it."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] not in UNKNOWN_KEY)
    first, more = problems[0], len(problems) - 1
    where = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case kind if kind in UNKNOWN_KEY:
            key, known = str(first["loc"][-1]), keys_at(first["loc"][:-1])
            hint = f" It belongs to {', '.join(homes)}." if (homes := homes_of(key)) else nearest(key, known)
            text = f"{where}: unknown key.{hint or ' Known: ' + ', '.join(known) + '.'}"
        case "missing":
            text = f"{where}: is missing. Add `{where}: ...`."
        case "value_error":
            text = f"{first['ctx']['error']}."
        case _:
            text = f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}, not {first['input']!r}."
    return text + (f" ({more} more)" if more else "")


def homes_of(key: str, place: tuple[str, ...] = ()) -> list[str]:
    """The parts of a data set file, as `train.augment`, that know the key; what is at the top is no part."""
    found: list[str] = []
    for name in keys_at(place):
        try:
            known = keys_at((*place, name))
        except AttributeError:  # a value, not a part
            continue
        found += [".".join((*place, name))] if key in known else []
        found += homes_of(key, (*place, name))
    return found


def keys_at(place: tuple[int | str, ...]) -> list[str]:
    """The keys that a part of the data set file knows."""
    part: Any = Dataset
    for name in place:
        if dataclasses.is_dataclass(part):
            part = {field.name: field.type for field in dataclasses.fields(part)}[str(name)]
        else:
            part = part.model_fields[str(name)].annotation
    if dataclasses.is_dataclass(part):
        return [field.name for field in dataclasses.fields(part)]
    return list(part.model_fields)
