"""What one stage hands to the next: paths, digests and counts, no tensors."""

from dataclasses import dataclass

from upath import UPath

from resnet_core.data_checks import Finding
from resnet_core.metrics import Interval
from resnet_core.preprocessing import Preprocessing
from resnet_core.search_space import Value
from tasks.parts import Part


@dataclass(frozen=True)
class Scan:
    """The source as it is now: `entries` is a Parquet file of `count` rows, one a file of the source or of
    its labels. `unread` are the parts that no earlier night has read. All parts lie in the folder
    `pixels`."""

    dataset: str
    pixels: UPath
    entries: UPath
    count: int
    unread: tuple[Part, ...]


@dataclass(frozen=True)
class Catalog:
    """`digest` names the content, `version` counts the nights that changed it; `near` of the images look
    like another one, `read` were read this time, the rest was known."""

    dataset: str
    path: UPath
    digest: str
    version: int
    classes: tuple[str, ...]
    ok: int
    duplicate: int
    quarantined: int
    near: int
    read: int


@dataclass(frozen=True)
class ShardSet:
    """`files` hold `train` + `validation` + `test` images; `written` of them are new."""

    dataset: str
    folder: UPath
    files: tuple[UPath, ...]
    digest: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    train: int
    validation: int
    test: int
    written: int


@dataclass(frozen=True)
class Checkpoint:
    """A finished training: `folder` holds `model/`, `epochs.json` and `state.safetensors`."""

    dataset: str
    folder: UPath
    digest: str
    epochs: int
    train_accuracy: float
    seconds: float
    device: str
    reused: bool
    mlflow_run_id: str


@dataclass(frozen=True)
class Evaluation:
    """Held-out metrics with their intervals; `folder` holds predictions and plots."""

    folder: UPath
    metrics: dict[str, Interval]
    count: int


@dataclass(frozen=True)
class ModelVersion:
    """A version in the registry."""

    name: str
    version: str
    run_id: str


@dataclass(frozen=True)
class Check:
    """One line of the gate's table."""

    name: str
    wanted: str
    found: str
    passed: bool


@dataclass(frozen=True)
class Decision:
    """What the gate said of a version, check by check."""

    version: ModelVersion
    checks: tuple[Check, ...]
    promoted: bool
    reason: str


@dataclass(frozen=True)
class Batch:
    """A scoring job over `files` files. `parts` cover all of them; those in `waiting` are not scored
    yet. `ignored` are the sidecars and hidden files of the source."""

    source: str
    output: UPath
    model: ModelVersion
    parts: tuple[Part, ...]
    waiting: tuple[Part, ...]
    ignored: tuple[str, ...]
    files: int


@dataclass(frozen=True)
class Scores:
    """A finished batch. `labels` has a count and a mean confidence for each label."""

    output: UPath
    model: ModelVersion
    files: int
    scored: int
    failed: int
    reused: int
    labels: dict[str, tuple[int, float]]
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Of the files that were scored this time."""
        return (self.files - self.reused) / self.seconds


@dataclass(frozen=True)
class DataReport:
    """What the checks of an accepted night said; `folder` holds their pictures and the summary."""

    folder: UPath
    findings: tuple[Finding, ...]

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.action == "warn")


@dataclass(frozen=True)
class FoldPlan:
    """A cross-validation to be: `folder` holds the file of `count` training images and the fold of each;
    `mlflow_run_id` is the run that the folds' runs are nested in."""

    dataset: str
    folder: UPath
    digest: str
    folds: int
    count: int
    mlflow_run_id: str


@dataclass(frozen=True)
class CrossValidation:
    """`metrics` has the mean and the standard deviation over `folds` folds, `by_fold` what they are of;
    `predictions` is the file of `count` training images, each predicted by a classifier that has not seen
    it. `reused` of the folds were trained in an earlier run."""

    dataset: str
    predictions: UPath
    folds: int
    count: int
    metrics: dict[str, tuple[float, float]]
    by_fold: dict[str, tuple[float, ...]]
    reused: int
    mlflow_run_id: str


@dataclass(frozen=True)
class StudyPlan:
    """An Optuna study `name` of `trials` trials, to be or to go on, in Optuna's `storage`. `folder` holds
    the trials' checkpoints; the trials' runs are nested in `mlflow_run_id`."""

    dataset: str
    name: str
    storage: str
    folder: UPath
    trials: int
    epochs: int
    mlflow_run_id: str


@dataclass(frozen=True)
class Tuning:
    """A finished study: `trials` in all, `pruned` of which were ended early. `values` are those of the trial
    `number` with the best validation accuracy, `own_accuracy` what the data set file's own came to;
    `importance` is each setting's share in what the trials differ by."""

    plan: StudyPlan
    trials: int
    pruned: int
    number: int
    accuracy: float
    values: dict[str, Value]
    own_accuracy: float | None
    importance: dict[str, float]


@dataclass(frozen=True)
class Night:
    """What a retraining came to, as far as it was asked to go."""

    catalog: Catalog
    data: DataReport
    shard_set: ShardSet | None = None
    checkpoint: Checkpoint | None = None
    evaluation: Evaluation | None = None
    version: ModelVersion | None = None
    decision: Decision | None = None
