"""What one stage hands to the next: paths, digests and counts, no tensors.

What the fields are made of is imported for the type checker alone: a command that only moves an alias
need not wait for PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upath import UPath

    from resnet_core.data_checks import Finding
    from resnet_core.drift import Drift
    from resnet_core.engines import EngineName
    from resnet_core.metrics import Interval
    from resnet_core.preprocessing import Preprocessing
    from resnet_core.search_space import Value
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
class Batch:
    """A scoring job over `files` files. `kept` are the Parquet files whose rows stay, `waiting` what is still to
    be scored. `check` is what the rows' URIs must add up to. `ignored` are the sidecars and hidden files of the
    source. `known`: a file of rows that say what an image was scored as when its file was another, or None.

    `folder` is written to by `run`, and is `final` or a folder in it, while another version's rows are there.
    """

    source: str
    model: ModelVersion
    final: UPath
    folder: UPath
    run: str
    kept: tuple[UPath, ...]
    waiting: tuple[Part, ...]
    known: UPath | None
    ignored: tuple[str, ...]
    files: int
    check: tuple[int, int]

    @property
    def to_score(self) -> int:
        """Files."""
        return sum(part.count for part in self.waiting)


@dataclass(frozen=True)
class PartOutcome:
    """What scoring a part came to: `images` rows, of which `failed` are bad files; `labels` counts the others.
    `again` of them were known by their content."""

    images: int
    failed: int
    labels: dict[str, int]
    again: int = 0


@dataclass(frozen=True)
class Scores:
    """A finished batch: the rows are in `parts`. `labels` has a count and a mean confidence for each label;
    `review` images need a person's eyes, None where the version does not say. `reused` rows are of an earlier
    run, `again` of the others were known by the content of their files; `reasons` counts the failed ones by why."""

    batch: str
    source: str
    output: UPath
    parts: tuple[UPath, ...]
    model: ModelVersion
    engine: str
    files: int
    scored: int
    failed: int
    reused: int
    labels: dict[str, tuple[int, float]]
    seconds: float
    review: int | None = None
    again: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def images_per_second(self) -> float:
        """Of the files that were scored this time."""
        return (self.files - self.reused) / self.seconds


@dataclass(frozen=True)
class DriftReport:
    """What `images` of a batch are like against what its version was trained on, measure by measure; there are none
    where nothing could be measured, and `why` says why. `plot` shows it."""

    version: ModelVersion
    images: int
    findings: tuple[Drift, ...]
    why: str = ""
    plot: UPath | None = None

    @property
    def drifted(self) -> tuple[Drift, ...]:
        return tuple(each for each in self.findings if each.drifted)

    def in_words(self) -> str:
        """In one line, without what it is the drift of."""
        if not self.findings:
            return f"not measured: {self.why}"
        far = ", ".join(f"{each.measure} {each.method} {each.distance:.2f}" for each in self.drifted)
        return f"{far or 'none'} in {len(self.findings)} measures of {self.images:,} images"


@dataclass(frozen=True)
class Written:
    """`rows` of a batch are in `target`, which is shown without its password."""

    target: str
    rows: int
    seconds: float


@dataclass(frozen=True)
class EngineTrial:
    """What an engine came to on this machine: images/s as a multiple of torch's, measured beside it; the largest
    difference of a probability from torch's; `wrong`, why it is not used. `digest`: of the file that it runs."""

    name: EngineName
    speed: float
    ratio: float
    difference: float
    batch_size: int
    wrong: str = ""
    digest: str = ""


@dataclass(frozen=True)
class EngineChoice:
    """The engine of a batch, for `workers` threads at once. `file` is what it runs, if that lies in the store, and
    `digest` the file's; `plain`: torch, and not folded."""

    name: EngineName
    batch_size: int
    workers: int
    speed: float
    file: UPath | None = None
    digest: str = ""
    plain: bool = False
    trials: tuple[EngineTrial, ...] = ()


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
