"""What a night's images are like, in numbers that add up: a summary of each part, and their sum.

Counts and histograms of fixed bins, a few kilobytes whatever the number of images: a catalog of
millions is summed batch by batch, and next year's night can still be held against this one.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# Gray levels in steps of 2 and 1; sharpness and sides, whose ratios matter, in steps of an eighth and a
# sixteenth of an octave.
EDGES: Mapping[str, NDArray[np.float64]] = {
    "brightness": np.linspace(0, 256, 129),
    "contrast": np.linspace(0, 128, 129),
    "sharpness": np.concatenate([[0], 2.0 ** (np.arange(-32, 81) / 8)]),
    "width": 2.0 ** (np.arange(0, 273) / 16),
    "height": 2.0 ** (np.arange(0, 273) / 16),
}
UNITS = {"brightness": "gray levels", "contrast": "gray levels", "sharpness": "", "width": "px", "height": "px"}
COLUMNS = ["label", "status", "reason_code", "reason", *EDGES]


@dataclass(frozen=True)
class Histogram:
    """`counts` of values by bin (EDGES), what lies outside in the outermost; `sum` of the values."""

    counts: tuple[int, ...]
    sum: float = 0.0

    def __add__(self, other: "Histogram") -> "Histogram":
        counts = tuple(mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True))
        return Histogram(counts, self.sum + other.sum)

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def mean(self) -> float:
        return self.sum / self.count if self.count else float("nan")

    @property
    def shares(self) -> NDArray[np.float64]:
        """float64 [bins], summing to 1, or all 0 where nothing was counted."""
        return np.array(self.counts, dtype=np.float64) / max(self.count, 1)


def _empty() -> dict[str, Histogram]:
    return {name: Histogram((0,) * (len(edges) - 1)) for name, edges in EDGES.items()}


@dataclass(frozen=True)
class Summary:
    """`total` images, of which `ok` are fit for training: `classes` (label: images) and `histograms`
    are theirs. `reasons` (reason code: images) are of those in quarantine, with an example of each one's
    text. Summaries of parts add up to that of the whole."""

    total: int = 0
    ok: int = 0
    classes: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, str] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=_empty)

    def __add__(self, other: "Summary") -> "Summary":
        return Summary(
            self.total + other.total,
            self.ok + other.ok,
            _added(self.classes, other.classes),
            _added(self.reasons, other.reasons),
            {**other.examples, **self.examples},
            {name: self.histograms[name] + other.histograms[name] for name in EDGES},
        )

    @property
    def quarantined(self) -> int:
        return sum(self.reasons.values())

    @property
    def quarantined_share(self) -> float:
        return self.quarantined / self.total if self.total else 0.0

    def share(self, label: str) -> float:
        """Of the images fit for training."""
        return self.classes.get(label, 0) / self.ok if self.ok else 0.0

    def frequent_reasons(self, most: int = 10) -> list[tuple[str, int]]:
        return sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))[:most]

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Summary":
        """A histogram of other bins than today's counts as empty: there is nothing to hold it against."""
        found = json.loads(text)
        histograms = _empty()
        for name, empty in histograms.items():
            known = found["histograms"].get(name, {"counts": ()})
            if len(known["counts"]) == len(empty.counts):
                histograms[name] = Histogram(tuple(known["counts"]), known["sum"])
        return cls(**{**found, "histograms": histograms})


def _added(mine: Mapping[str, int], theirs: Mapping[str, int]) -> dict[str, int]:
    return {name: mine.get(name, 0) + theirs.get(name, 0) for name in sorted({*mine, *theirs})}


def summarise(table: pa.Table | pa.RecordBatch) -> Summary:
    """The summary of rows of the catalog with the columns COLUMNS, all of images that are there now."""
    table = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table
    table = table.select(COLUMNS)
    ok = table.filter(pc.equal(table["status"], "ok"))
    labels = pc.value_counts(ok["label"].combine_chunks().drop_null().cast(pa.string()))
    classes = {entry["values"]: entry["counts"] for entry in labels.to_pylist()}
    reasons, examples = _count_reasons(table.filter(pc.equal(table["status"], "quarantined")))
    return Summary(
        len(table),
        len(ok),
        dict(sorted(classes.items())),
        reasons,
        examples,
        {name: histogram(ok[name].drop_null().to_numpy(), edges) for name, edges in EDGES.items()},
    )


def histogram(values: NDArray[np.generic], edges: NDArray[np.float64]) -> Histogram:
    """Values [N] by the bins between `edges`, the left edge belonging to the bin."""
    levels = np.asarray(values, dtype=np.float64)
    bins = len(edges) - 1
    places = np.clip(np.searchsorted(edges, levels, side="right") - 1, 0, bins - 1)
    return Histogram(tuple(np.bincount(places, minlength=bins).tolist()), float(levels.sum()))


def _count_reasons(quarantined: pa.Table) -> tuple[dict[str, int], dict[str, str]]:
    """Count rows by reason code; the texts are the first row's."""
    grouped = quarantined.group_by("reason_code", use_threads=False)
    rows = grouped.aggregate([("reason", "count"), ("reason", "first")]).sort_by("reason_code").to_pylist()
    counts = {row["reason_code"]: row["reason_count"] for row in rows}
    return counts, {row["reason_code"]: row["reason_first"] for row in rows}
