"""What scored images are like, in numbers that add up: a profile of each part, and their sum.

Counts and histograms of fixed bins, a few kilobytes whatever the number of images; as `data_summary`, but of what a
model says as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from resnet_core.drift import summary as data_summary
from resnet_core.drift.summary import Histogram, histogram

EDGES: Mapping[str, NDArray[np.float64]] = {
    "confidence": np.linspace(0, 1, 201),
    **{name: data_summary.EDGES[name] for name in ("brightness", "contrast", "sharpness")},
}
COLUMNS = ["label", "needs_review", *EDGES]


def _empty() -> dict[str, Histogram]:
    return {name: Histogram((0,) * (len(edges) - 1)) for name, edges in EDGES.items()}


@dataclass(frozen=True)
class Profile:
    """`labels` has how many images were decided to be of each class, `reviews` how many need a person's eyes and
    how many do not (both 0 where the version does not say), `histograms` the values of EDGES."""

    labels: Mapping[str, int] = field(default_factory=dict)
    reviews: tuple[int, int] = (0, 0)
    histograms: Mapping[str, Histogram] = field(default_factory=_empty)

    def __add__(self, other: "Profile") -> "Profile":
        names = sorted({*self.labels, *other.labels})
        return Profile(
            {name: self.labels.get(name, 0) + other.labels.get(name, 0) for name in names},
            (self.reviews[0] + other.reviews[0], self.reviews[1] + other.reviews[1]),
            {name: self.histograms[name] + other.histograms[name] for name in EDGES},
        )

    @property
    def images(self) -> int:
        return sum(self.labels.values())

    def described(self) -> dict[str, Any]:
        """As JSON holds it."""
        histograms = {name: {"counts": list(h.counts), "sum": h.sum} for name, h in self.histograms.items()}
        return {"labels": dict(self.labels), "reviews": list(self.reviews), "histograms": histograms}


def profile_from(values: Mapping[str, Any]) -> Profile:
    """What `described` gave. A histogram of other bins than today's counts as empty: there is nothing to hold it
    against."""
    histograms = _empty()
    for name, empty in histograms.items():
        known = values["histograms"].get(name, {"counts": ()})
        if len(known["counts"]) == len(empty.counts):
            histograms[name] = Histogram(tuple(known["counts"]), known["sum"])
    judged, other = values["reviews"]
    return Profile(dict(values["labels"]), (judged, other), histograms)


def profile_of(table: pa.Table | pa.RecordBatch) -> Profile:
    """The profile of good images' rows with any of COLUMNS; a column that is missing counts as empty, and so
    does a null."""
    columns = {name: table.column(name).drop_null() for name in COLUMNS if name in table.schema.names}
    labels = pc.value_counts(columns["label"]).to_pylist() if "label" in columns else []
    reviews = columns.get("needs_review", pa.array([], pa.bool_()))
    judged = pc.sum(reviews, min_count=0).as_py()
    histograms = _empty()
    for name in EDGES:
        if name in columns:
            histograms[name] = histogram(columns[name].to_numpy(), EDGES[name])
    return Profile(
        {entry["values"]: entry["counts"] for entry in sorted(labels, key=lambda entry: entry["values"])},
        (judged, len(reviews) - judged),
        histograms,
    )
