"""The values that a stage of a batch hands to the next: paths, names and counts, no tensors.

`tasks.values` has the night's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from resnet_core.errors import plural
from tasks.values import ModelVersion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from upath import UPath

    from resnet_core.drift.drift import Drift
    from resnet_core.inference.engines import EngineName
    from tasks.parts import Part


@dataclass(frozen=True)
class Batch:
    """A scoring job over `files` files. Run `run` writes to `folder`: `final`, or a folder in it while another
    version's rows are there.

    kept      Parquet files whose rows stay
    waiting   parts to score
    check     the sum that the rows' URIs must have
    ignored   a file with the names of the source's ignored files
    known     a file of scored rows to look up by content hash, for files that were moved or touched, or None
    tried     a file of the runs that have tried files with a fault of the moment, or None
    confidential  whether the version is of encrypted data
    """

    source: str
    model: ModelVersion
    final: UPath
    folder: UPath
    run: str
    kept: tuple[UPath, ...]
    waiting: tuple[Part, ...]
    known: UPath | None
    ignored: UPath
    files: int
    check: tuple[int, int]
    tried: UPath | None = None
    confidential: bool = False

    @property
    def to_score(self) -> int:
        """Files."""
        return sum(part.count for part in self.waiting)


@dataclass(frozen=True)
class PartOutcome:
    """The outcome of a part: `images` rows, `failed` of them bad files; `labels` counts the others.

    `again` of them were known by their content. `refused`: the engine that its machine did not use, and why.
    """

    images: int
    failed: int
    labels: dict[str, int]
    again: int = 0
    refused: tuple[str, str] | None = None


@dataclass(frozen=True)
class Scores:
    """A finished batch, described once: manifest, MLflow run, pages and messages are made from it.

    source   as the user gave it, absolute
    output   the folder of the batch; its name is the batch's name
    parts    Parquet files with the rows
    scored   number of good rows; the other files failed
    reused   number of rows of an earlier run
    again    number of other rows that were known by the content of their files
    labels   by label: number of images, mean confidence
    review   number of images for a person to see; None if the version has neither sets nor novelty
    unknown  number of images that are unlike all that was learned; None if the version cannot tell
    finished the time that its manifest says, ISO 8601
    reasons  number of failed files by reason
    ignored  number of files that are never images by their names
    refused  by engine: why it was not used
    confidential  whether the version is of encrypted data
    """

    source: str
    output: UPath
    parts: tuple[UPath, ...]
    model: ModelVersion
    engine: str
    files: int
    scored: int
    reused: int
    labels: dict[str, tuple[int, float]]
    seconds: float
    review: int | None = None
    again: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    ignored: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    confidential: bool = False
    unknown: int | None = None
    finished: str = ""

    @property
    def batch(self) -> str:
        return self.output.name

    @property
    def failed(self) -> int:
        return self.files - self.scored

    @property
    def images_per_second(self) -> float:
        """Files scored in this run, a second."""
        return (self.files - self.reused) / self.seconds

    def identity(self) -> dict[str, str]:
        """Return source, version and engine, by their keys in the manifest and in the MLflow run."""
        return {
            "source": self.source,
            "model_name": self.model.name,
            "model_version": self.model.version,
            "model_files": self.model.files,
            "engine": self.engine,
        }

    def counts(self) -> dict[str, int | None]:
        """Return the numbers of files, by their keys in the manifest and in the MLflow run."""
        counts = {"files": self.files, "scored": self.scored, "failed": self.failed}
        return counts | {"needs_review": self.review, "unknown": self.unknown}

    def outcome(self) -> str:
        """Return `201 scored, 4 failed`, and how many images need review if that is known."""
        review = "" if self.review is None else f", {self.review:,} need review"
        review += f" ({self.unknown:,} unknown)" if self.unknown else ""
        ignored = f", {plural(self.ignored, 'more file')} ignored" if self.ignored else ""
        return f"{self.scored:,} scored, {self.failed:,} failed{review}{ignored}"

    def headline(self) -> str:
        return f"{plural(self.files, 'file')} by {self.model}: {self.outcome()}"

    def speed(self) -> str:
        """Return images a second and the engine, or that no file was scored in this run."""
        if self.reused == self.files:
            return "nothing new: all rows are of an earlier run"
        earlier = f", {plural(self.reused, 'row')} of an earlier run" if self.reused else ""
        return f"{self.images_per_second:,.1f} images/s by {self.engine}{earlier}"

    def nothing_scored(self) -> str:
        """Return why no file was scored, and the remedy."""
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in self.reasons.items())
        return (
            f"no file could be scored; {plural(self.failed, 'failed file')}: {reasons}. "
            f"The rows in {self.output} say why: mend the files, and run the same command again."
        )

    def failures(self) -> str:
        """Return the number of failed files by reason, or an empty text if none failed."""
        return "failed: " + ", ".join(f"{n:,} {reason}" for reason, n in self.reasons.items()) if self.reasons else ""


@dataclass(frozen=True)
class DriftReport:
    """The comparison of `images` images of a batch with its version's training data, measure by measure.

    `findings` is empty if nothing could be measured; `why` then has the reason. `plot` shows them. `farthest`: where
    there are more unknown images than expected, the farthest ones, by their places and distances. `outermost`: by
    drifted measure of the pixels, the images with the most extreme values on the side that it moved to.
    """

    version: ModelVersion
    images: int
    findings: tuple[Drift, ...]
    why: str = ""
    plot: UPath | None = None
    farthest: tuple[tuple[str, float], ...] = ()
    outermost: Mapping[str, tuple[tuple[str, float], ...]] = field(default_factory=dict)

    @property
    def drifted(self) -> tuple[Drift, ...]:
        return tuple(each for each in self.findings if each.drifted)

    def in_words(self) -> str:
        """Return the outcome in one line, without the name of the batch."""
        if not self.findings:
            return f"not measured: {self.why}"
        far = ", ".join(f"{each.measure} {each.method} {each.distance:.2f}" for each in self.drifted)
        return f"{far or 'none'} in {plural(len(self.findings), 'measure')} of {plural(self.images, 'image')}"


@dataclass(frozen=True)
class Written:
    """`rows` of a batch are in `target`, which is shown without its password."""

    target: str
    rows: int
    seconds: float


@dataclass(frozen=True)
class EngineTrial:
    """The outcome of an engine on this machine.

    `ratio` is images/s as a multiple of torch's, `difference` the largest difference of a probability from torch's.
    `wrong` is the reason not to use it, `digest` that of its file. It decides `differing` of `compared` answers
    otherwise.
    """

    name: EngineName
    speed: float
    ratio: float
    difference: float
    batch_size: int
    wrong: str = ""
    digest: str = ""
    differing: int = 0
    compared: int = 0


@dataclass(frozen=True)
class EngineChoice:
    """The engine of a batch, for `workers` threads at once.

    `file` is the engine's file in the store, `digest` its digest. `plain`: torch without folded batch norm. `machine`:
    the `arithmetic` of the machine that tried it. `allowed`: the share of answers that it may decide otherwise.
    """

    name: EngineName
    batch_size: int
    workers: int
    speed: float
    file: UPath | None = None
    digest: str = ""
    plain: bool = False
    trials: tuple[EngineTrial, ...] = ()
    machine: str = ""
    allowed: float = 0.0

    @property
    def refused(self) -> dict[str, str]:
        """Return the engines that may not be used here, and why."""
        return {trial.name: trial.wrong for trial in self.trials if trial.wrong}
