"""The values that a stage hands to the next: paths, digests and counts, no tensors.

Types of the fields are imported for the type checker alone: a command that only moves an alias need not wait for
PyTorch.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from resnet_core.errors import plural, some_of
from tasks.store import MANIFEST

if TYPE_CHECKING:
    from upath import UPath

    from resnet_core.catalog.placement import Placement
    from resnet_core.drift.checks import Finding
    from resnet_core.evaluation.evidence import Evidence
    from resnet_core.evaluation.metrics import Interval
    from resnet_core.images.preprocessing import Preprocessing
    from tasks.parts import Part


log = logging.getLogger("grayline")

Value = TypeVar("Value")
CERTAIN = 0.95  # confidence of a decision that is near-certain
_NAMED = 3  # flips, kinds of them, and slices, in a line


def have(value: Value | None) -> Value:
    """Return the value that an earlier stage has made. A missing one is a defect of the flow."""
    assert value is not None, "a stage ran before the stage whose outcome it needs"
    return value


@dataclass(frozen=True)
class Scan:
    """The source as it is now. `entries` is a Parquet file of `count` rows, a row per file of the source or its
    labels.

    `unread` are the parts that no earlier night has read; all parts lie in the folder `pixels`. `corrections` is a
    Parquet file of labels by people, or None. `image` has the gray levels that are decided. `ignored` files are never
    images by their names. `given`: splits that the source itself gives, beside `train`.
    """

    dataset: str
    image: Preprocessing
    pixels: UPath
    entries: UPath
    count: int
    unread: tuple[Part, ...]
    corrections: UPath | None = None
    ignored: int = 0
    given: tuple[str, ...] = ()


@dataclass(frozen=True)
class Catalog:
    """The catalog: `digest` names its content, `version` counts the nights that changed it.

    `near` images are the same picture as another one; `read` images were read this time. `image` made the pixels.
    `foreign` files in quarantine are not images by their first bytes; `ignored` files are never images by their names.
    """

    dataset: str
    image: Preprocessing
    path: UPath
    digest: str
    version: int
    classes: tuple[str, ...]
    ok: int
    duplicate: int
    quarantined: int
    near: int
    read: int
    foreign: int = 0
    ignored: int = 0
    placement: Placement | None = None
    unlabelled: int = 0
    waiting: int = 0

    @property
    def images(self) -> int:
        return self.ok + self.duplicate + self.quarantined + self.unlabelled + self.waiting

    def by_status(self) -> str:
        """Return the number of images by status, as text; also how many files are not images."""
        later = {"unlabelled": self.unlabelled, "waiting": self.waiting}
        rest = "".join(f", {count:,} {status}" for status, count in later.items() if count)
        foreign = f"; {self.foreign:,} in quarantine not images by their first bytes" if self.foreign else ""
        ignored = f"; {plural(self.ignored, 'more file')} ignored" if self.ignored else ""
        counts = f"{self.ok:,} ok, {self.duplicate:,} duplicate, {self.quarantined:,} quarantined"
        return counts + rest + foreign + ignored


@dataclass(frozen=True)
class ShardSet:
    """The shards of one state of the data: `files` hold `train` + `validation` + `test` images, `written` of them
    new.
    """

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

    @staticmethod
    def open(folder: UPath) -> ShardSet | None:
        """Read a finished shard set, FOLDER = shards/<dataset>/<digest>; None if it or one of its files is missing."""
        from resnet_core.images.preprocessing import Preprocessing
        from resnet_core.storage.files import DamagedFileError, read_json

        path = folder / MANIFEST
        if not path.exists():
            return None
        try:
            manifest = read_json(path)
        except DamagedFileError as error:
            log.warning("shards      %s: the set is taken for missing; the next night writes it again", error)
            return None
        files = tuple(folder / name for name in manifest["shards"])
        if not all(file.exists() for file in files):
            return None
        return ShardSet(
            dataset=folder.parent.name,
            folder=folder,
            files=files,
            digest=folder.name,
            classes=tuple(manifest["classes"]),
            preprocessing=Preprocessing.of(manifest["preprocessing"]),
            written=0,
            **manifest["images"],
        )


@dataclass(frozen=True)
class Checkpoint:
    """A finished training: `folder` holds `model/` and `epochs.json`."""

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
    """Held-out metrics with their intervals; `folder` holds predictions, the calibration and plots.

    evidence: of all images. look_alikes: how many of them look like a training image, None if that is not known.
    unlike: evidence of the others, if there are both.
    worse: slices that are significantly worse than the rest. missed: what was wanted and is shown to be missed.
    """

    folder: UPath
    metrics: dict[str, Interval]
    count: int
    evidence: Evidence
    look_alikes: int | None = None
    unlike: Evidence | None = None
    worse: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Explanation:
    """A gallery of `items` held-out images, `errors` of them misclassified.

    `folder` is None if no pictures may be made. `layer` is the stage that the heat maps are of.
    """

    folder: UPath | None
    layer: str
    items: int
    errors: int


@dataclass(frozen=True)
class ModelVersion:
    """A version in the registry. As text it is `NAME version NUMBER`.

    files: the digest of its files, by which rows, engines and caches know it. Numbers begin at 1 again once somebody
        deletes the model. A version of an earlier release has its place in MLflow instead.
    """

    name: str
    version: str
    run_id: str
    files: str = ""

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


@dataclass(frozen=True)
class Check:
    """A line of the gate's table."""

    name: str
    wanted: str
    found: str
    passed: bool


@dataclass(frozen=True)
class Flip:
    """An image that two versions decide on otherwise: label and confidence of the old one, and of the new one.

    side: the longer one, in pixels; None where that is not known.
    """

    uri: str
    old: tuple[str, float]
    new: tuple[str, float]
    side: int | None = None


@dataclass(frozen=True)
class Flips:
    """The decisions of two versions on images: the share of those that differ.

    of        says which images these are
    left_out  number of other images by reason
    certain   number of flips of which the old version was near-certain
    kinds     old label, new label and number of flips, the most frequent first
    parts     images and flips by label of the old version, and by slice; `more`: significantly more than elsewhere
    first     the first flips, those at the head of which the old version was surest
    secret    whether no picture may be made of them
    """

    old: ModelVersion
    new: ModelVersion
    of: str
    images: int
    count: int
    share: Interval
    left_out: dict[str, int]
    certain: int
    kinds: tuple[tuple[str, str, int], ...]
    parts: tuple[FlipsPart, ...]
    first: tuple[Flip, ...]
    secret: bool = False

    def in_words(self) -> str:
        """Return the share and its interval, the near-certain flips first, then the kinds, slices and left out ones."""
        left_out = f"left out: {', '.join(f'{n:,} {why}' for why, n in self.left_out.items())}" if self.left_out else ""
        if not self.images:
            return f"no image {self.of} could be compared; {left_out}"
        share = self.share
        texts = [f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%}) of {plural(self.images, 'image')} {self.of}"]
        if self.certain:
            names = [flip.uri.rpartition("/")[2] for flip in self.first[: self.certain]]
            sure = f"{self.certain:,} of which version {self.old.version} was {CERTAIN:.0%} sure"
            texts.append(f"{sure}: {some_of(names, _NAMED)}")
        texts += [some_of([f"{old!r} to {new!r} {n:,}" for old, new, n in self.kinds], _NAMED)] if self.kinds else []
        worse = [f"{part.name} ({part.flips:,} of {part.images:,})" for part in self.parts if part.more]
        texts += [f"significantly more on {some_of(worse, _NAMED)}"] if worse else []
        return "; ".join(filter(None, [*texts, left_out]))


@dataclass(frozen=True)
class FlipsPart:
    """The images of a class or a slice, and their flips."""

    name: str
    images: int
    flips: int
    more: bool = False


@dataclass(frozen=True)
class Against:
    """How a version compares with the champion: `checks`, and which decisions flip.

    `question` names all that this was made of; empty if another night may find otherwise. `again`: whether an earlier
    night has found it.
    """

    checks: tuple[Check, ...]
    flips: Flips | None
    question: str = ""
    again: bool = False


@dataclass(frozen=True)
class Decision:
    """The gate's decision on a version, check by check. `against`: its part that compares, if there is a champion."""

    version: ModelVersion
    checks: tuple[Check, ...]
    promoted: bool
    reason: str
    against: Against | None = None

    @property
    def flips(self) -> Flips | None:
        return self.against.flips if self.against else None


@dataclass(frozen=True)
class DataReport:
    """The findings of the data checks of an accepted night; `folder` holds their pictures and the summary."""

    folder: UPath
    findings: tuple[Finding, ...]

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.action == "warn")


@dataclass(frozen=True)
class Night:
    """The outcome of a retraining, as far as it has come: stages are given it, and return more of it."""

    catalog: Catalog
    data: DataReport
    shard_set: ShardSet | None = None
    checkpoint: Checkpoint | None = None
    evaluation: Evaluation | None = None
    version: ModelVersion | None = None
    decision: Decision | None = None

    def with_(self, **outcome: Any) -> Night:
        """Return the night with the outcome of one more stage."""
        return replace(self, **outcome)
