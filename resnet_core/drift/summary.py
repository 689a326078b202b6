"""Summaries: what a set of images is like, in numbers that add up.

field       a number of                       in a night's catalog            in scored images
total       images                            all in the source               all
ok          images without a fault            status `ok`                     all
classes     ok images by label                labels of the source            decided labels
reviews     ok images that a person           none                            needs_review
            must see, and others              none                            (0, 0: not known)
reasons     images in quarantine by reason    reason_code                     none
histograms  ok images by value                CATALOG_MEASURES                SCORE_MEASURES

The summary of a whole is the sum of those of its parts. Bins are fixed, so that summaries of any two nights compare.
A summary takes a few kilobytes for any number of images.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from resnet_core.reasons import ReasonCode

# Gray levels in steps of 2 and 1. Ratios matter for sharpness and sides: their steps are an eighth and a sixteenth
# of an octave.
EDGES: Mapping[str, NDArray[np.float64]] = {
    "confidence": np.linspace(0, 1, 201),
    "brightness": np.linspace(0, 256, 129),
    "contrast": np.linspace(0, 128, 129),
    "sharpness": np.concatenate([[0], 2.0 ** (np.arange(-32, 81) / 8)]),
    "width": 2.0 ** (np.arange(0, 273) / 16),
    "height": 2.0 ** (np.arange(0, 273) / 16),
}
UNITS = {"confidence": "", "brightness": "gray levels", "contrast": "gray levels", "sharpness": ""}
UNITS |= {"width": "px", "height": "px"}
PIXEL_MEASURES = ("brightness", "contrast", "sharpness")
CATALOG_MEASURES = (*PIXEL_MEASURES, "width", "height")
SCORE_MEASURES = ("confidence", *PIXEL_MEASURES)
CATALOG_COLUMNS = ["label", "status", "reason_code", "reason", *CATALOG_MEASURES]
SCORE_COLUMNS = ["label", "needs_review", *SCORE_MEASURES]
_COUNTED = {"label", "needs_review", *EDGES}


@dataclass(frozen=True)
class Histogram:
    """`counts` of values by bin (EDGES), the outermost bins with all beyond; `sum` of the values."""

    counts: tuple[int, ...]
    sum: float = 0.0

    def __add__(self, other: "Histogram") -> "Histogram":
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Histogram(counts, self.sum + other.sum)

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def mean(self) -> float:
        return self.sum / self.count if self.count else float("nan")

    @property
    def shares(self) -> NDArray[np.float64]:
        """float64 [bins] with sum 1, or all 0 if nothing was counted."""
        return np.array(self.counts, dtype=np.float64) / max(self.count, 1)


def _empty() -> dict[str, Histogram]:
    return {name: Histogram((0,) * (len(edges) - 1)) for name, edges in EDGES.items()}


@dataclass(frozen=True)
class Summary:
    """The numbers of the table above. `examples` has the text of a reason for every code."""

    total: int = 0
    ok: int = 0
    classes: Mapping[str, int] = field(default_factory=dict)
    reviews: tuple[int, int] = (0, 0)
    reasons: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, str] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=_empty)

    def __add__(self, other: "Summary") -> "Summary":
        return Summary(
            self.total + other.total,
            self.ok + other.ok,
            _added(self.classes, other.classes),
            (self.reviews[0] + other.reviews[0], self.reviews[1] + other.reviews[1]),
            _added(self.reasons, other.reasons),
            {**other.examples, **self.examples},
            {name: self.histograms[name] + other.histograms[name] for name in EDGES},
        )

    @property
    def labelled(self) -> int:
        return sum(self.classes.values())

    @property
    def quarantined(self) -> int:
        return sum(self.reasons.values())

    @property
    def foreign(self) -> int:
        """Files in quarantine that are not images."""
        return self.reasons.get(ReasonCode.NOT_AN_IMAGE, 0)

    @property
    def quarantined_share(self) -> float:
        """Return the share of images that are in quarantine, without the files that are not images."""
        images = self.total - self.foreign
        return (self.quarantined - self.foreign) / images if images else 0.0

    def share(self, label: str) -> float:
        """Return the label's share of the ok images."""
        return self.classes.get(label, 0) / self.ok if self.ok else 0.0

    def frequent_reasons(self, most: int = 10) -> list[tuple[str, int]]:
        return sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))[:most]

    def to_dict(self) -> dict[str, Any]:
        """Return the summary for JSON; histograms without a value are left out."""
        histograms = {name: asdict(histogram) for name, histogram in self.histograms.items() if histogram.count}
        return asdict(self) | {"histograms": histograms}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Summary":
        """Read `to_dict`'s result, or that of older code: `labels` for `classes`, or no `reviews`.

        A histogram with other bins than today's counts as empty, because nothing can be compared with it.
        """
        histograms = _empty()
        for name, empty in histograms.items():
            stored = values["histograms"].get(name, {"counts": ()})
            if len(stored["counts"]) == len(empty.counts):
                histograms[name] = Histogram(tuple(stored["counts"]), stored["sum"])
        review, rest = values.get("reviews", (0, 0))
        return cls(
            values.get("total", 0),
            values.get("ok", 0),
            values["classes"] if "classes" in values else values["labels"],
            (review, rest),
            values.get("reasons", {}),
            values.get("examples", {}),
            histograms,
        )


def _added(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {name: a.get(name, 0) + b.get(name, 0) for name in sorted({*a, *b})}


def summarise(rows: pa.Table | pa.RecordBatch) -> Summary:
    """Return the summary of rows with any of CATALOG_COLUMNS and SCORE_COLUMNS.

    Missing columns and nulls are not counted. Without `status`, all rows are ok.
    """
    table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
    if "status" in table.column_names:  # an image without a label is not part of the data yet
        table = table.filter(pc.not_equal(table["status"], "unlabelled"))
    ok = table.filter(pc.equal(table["status"], "ok")) if "status" in table.column_names else table
    values = {name: ok[name].combine_chunks().drop_null() for name in ok.column_names if name in _COUNTED}
    labels = pc.value_counts(values["label"].cast(pa.string())).to_pylist() if "label" in values else []
    reviews = values.get("needs_review", pa.array([], pa.bool_()))
    review = pc.sum(reviews, min_count=0).as_py()
    return Summary(
        len(table),
        len(ok),
        {entry["values"]: entry["counts"] for entry in sorted(labels, key=lambda entry: entry["values"])},
        (review, len(reviews) - review),
        *_count_reasons(table),
        _empty() | {name: _histogram(values[name].to_numpy(), EDGES[name]) for name in EDGES if name in values},
    )


def _histogram(values: NDArray[np.generic], edges: NDArray[np.float64]) -> Histogram:
    """Count values [N] by the bins between `edges`; the left edge belongs to the bin."""
    levels = np.asarray(values, dtype=np.float64)
    bins = len(edges) - 1
    places = np.clip(np.searchsorted(edges, levels, side="right") - 1, 0, bins - 1)
    return Histogram(tuple(np.bincount(places, minlength=bins).tolist()), float(levels.sum()))


def _count_reasons(table: pa.Table) -> tuple[dict[str, int], dict[str, str]]:
    """Count the images in quarantine by reason code; the texts are the first row's."""
    if "reason_code" not in table.column_names:
        return {}, {}
    quarantined = table.filter(pc.equal(table["status"], "quarantined"))
    grouped = quarantined.group_by("reason_code", use_threads=False)
    rows = grouped.aggregate([("reason", "count"), ("reason", "first")]).sort_by("reason_code").to_pylist()
    counts = {row["reason_code"]: row["reason_count"] for row in rows}
    return counts, {row["reason_code"]: row["reason_first"] for row in rows}
