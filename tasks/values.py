"""What one stage hands to the next: paths, digests and counts, no tensors.

What the fields are made of is imported for the type checker alone: a command that only moves an alias
need not wait for PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upath import UPath

    from resnet_core.drift.checks import Finding
    from resnet_core.evaluation.metrics import Interval
    from resnet_core.images.preprocessing import Preprocessing
    from resnet_core.training.search_space import Value
    from tasks.parts import Part


@dataclass(frozen=True)
class Scan:
    """The source as it is now: `entries` is a Parquet file of `count` rows, one a file of the source or of
    its labels. `unread` are the parts that no earlier night has read. All parts lie in the folder
    `pixels`. `corrections`: a Parquet file of what people have corrected, None where nobody has."""

    dataset: str
    pixels: UPath
    entries: UPath
    count: int
    unread: tuple[Part, ...]
    corrections: UPath | None = None


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
    """Held-out metrics with their intervals; `folder` holds predictions, the calibration and plots. `worse` are
    the slices that are significantly worse than the rest."""

    folder: UPath
    metrics: dict[str, Interval]
    count: int
    worse: tuple[str, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """A gallery of `items` held-out images, `errors` of which were given another class than their own;
    `folder` is None where no pictures may be made. `layer` is the stage whose output was looked into."""

    folder: UPath | None
    layer: str
    items: int
    errors: int


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
class LabelIssues:
    """`issues` of `images` training labels that are probably wrong. `table` holds every label there is, those
    first; `sheet` shows them, and is None where no pictures may be made. `worst` are uri, label, suggestion and
    the confidence in the label of some."""

    dataset: str
    folder: UPath
    table: UPath
    sheet: UPath | None
    images: int
    issues: int
    worst: tuple[tuple[str, str, str, float], ...]
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
class Reproduction:
    """A version that was trained again. `largest` is the largest difference between two weights; where there
    is one, `metrics` has the version's value and the new one on the held-out images. `surroundings` say of
    code, distributions and machine whether they are the same."""

    version: ModelVersion
    identical: bool
    largest: float
    metrics: dict[str, tuple[float, float]]
    surroundings: dict[str, str]
    seconds: float

    @property
    def verdict(self) -> str:
        """In one line."""
        if self.identical:
            return f"trained again in {self.seconds:,.0f} s, and every byte of the weights is the same"
        if self.largest == float("inf"):
            return f"trained again in {self.seconds:,.0f} s: it is another network"
        return f"trained again in {self.seconds:,.0f} s; the weights differ by up to {self.largest:.3g}"


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


@dataclass(frozen=True)
class Verdict:
    """What `count` new labelled images said of a version: its metric on them, and checks as the gate's.
    `left_out` counts images by why they do not. `take_back`: the predecessor would do better."""

    version: ModelVersion
    predecessor: ModelVersion | None
    metric: str
    found: Interval
    count: int
    left_out: dict[str, int]
    checks: tuple[Check, ...]
    take_back: bool

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)


@dataclass(frozen=True)
class Export:
    """A file of `size` bytes for another framework, checked on `count` held-out images: `difference` is the
    largest between two probabilities, `wrong` why the file would not have been let through, if it was
    allowed to differ."""

    version: ModelVersion
    kind: str
    path: UPath
    size: int
    count: int
    difference: float
    accuracy: float
    own_accuracy: float
    seconds: float
    wrong: str = ""


@dataclass(frozen=True)
class BackendAccuracy:
    """The accuracy of a version on `count` held-out images by another framework, and by PyTorch; speeds are
    images/s."""

    version: ModelVersion
    backend: str
    count: int
    accuracy: float
    own_accuracy: float
    difference: float
    speed: float
    own_speed: float


@dataclass(frozen=True)
class FeatureSet:
    """The outputs of a layer for `count` images, `shape` each, in `files` files; `reused` of the images were
    done in an earlier run."""

    version: ModelVersion
    folder: UPath
    layer: str
    kind: str
    shape: tuple[int, ...]
    count: int
    files: int
    reused: int
