"""Drift: compare a batch with the data that its version was trained on; show it, and tell listeners.

The rows are read a piece at a time, whatever their number. A measure over its threshold raises the event
`grayline.drift`, which an automation of Prefect can act on. The batch itself is not affected.
"""

import io
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from upath import UPath

from resnet_core.drift.drift import LEAST, Drift, measure_drift
from resnet_core.drift.reference import MOST
from resnet_core.drift.summary import PIXEL_MEASURES, SCORE_COLUMNS, Summary, summarise
from resnet_core.drift.unknown import FARTHEST, Ranks, Unknown, unknown_drift
from resnet_core.errors import plural
from resnet_core.inference.scores import ADDED, with_added
from resnet_core.storage.files import write_text, write_whole
from tasks.artifacts import Markdown, markdown_table, picture, plain, publish_page
from tasks.batch.values import DriftReport, Scores
from tasks.registry.versions import reference_of
from tasks.store import DRIFT, DRIFT_PLOT

log = logging.getLogger("grayline")

_EVENT = "grayline.drift"
AT_ONCE = 8192  # rows in memory

_Pair = tuple[NDArray[np.float32], NDArray[np.float32]]  # embeddings, of before and now
_Images = tuple[tuple[str, float], ...]  # URIs and values
_FAR = ("distance", "descending")
_ENDS = (_FAR, *((name, order) for name in PIXEL_MEASURES for order in ("ascending", "descending")))


@task(cache_policy=NO_CACHE)  # a batch of many parts would be hashed for a key that nobody asks for
def check_drift(scores: Scores, tracking_uri: str) -> DriftReport:
    """Compare a finished batch with the reference of its version.

    Writes _drift.json and _drift.png into the batch's folder, shows them, and emits the event if there is drift.
    Nothing is measured without a reference, or for fewer than LEAST images; the report then says so.
    """
    kept = reference_of(tracking_uri, scores.model)
    if kept is None:
        why = f"{scores.model} keeps nothing of its training data to compare with"
        return not_measured(scores, f"{why}; the next one that is registered will")
    if scores.scored < LEAST:
        return not_measured(scores, f"{plural(scores.scored, 'image')} cannot tell, it takes {LEAST}")
    batch = read_batch(scores.parts, kept.ranks)
    now, embeddings, unknown = batch.summary, batch.embeddings, batch.unknown
    pair = None if kept.embeddings is None or not len(embeddings) else (kept.embeddings, embeddings)
    findings = measure_drift(kept.summary, now, kept.thresholds, pair)
    if kept.ranks and unknown.images >= LEAST:
        findings += (unknown_drift(unknown, kept.ranks, kept.thresholds.unknown),)
    report = DriftReport(scores.model, now.labelled, findings, plot=scores.output / DRIFT_PLOT)
    report = replace(report, **_named(report.drifted, kept.summary, batch))
    png = drawn(kept.summary, now, findings, pair)
    with write_whole(scores.output / DRIFT_PLOT) as draft:
        draft.write_bytes(png)
    write_report(scores, report)
    publish_page(markdown(scores, report, png), key="drift", description=report.in_words())
    for each in report.drifted:
        log.warning("drift       %s", each)
    for title, images in _titled(report):
        log.warning("drift       %s: %s", title, ", ".join(uri for uri, _ in images))
    if report.drifted:
        _emit(scores, report)
    else:
        log.info("drift       %s", report.in_words())
    return report


def _named(drifted: Iterable[Drift], before: Summary, batch: "_Read") -> dict[str, Any]:
    """Return the images that a report names, as its fields: those farthest towards where a measure has moved."""
    measures = {each.measure for each in drifted}
    outermost = {}
    for name in (name for name in PIXEL_MEASURES if name in measures):
        lower = batch.summary.histograms[name].mean < before.histograms[name].mean
        outermost[name] = batch.ends.at(name, "ascending" if lower else "descending")
    return {"farthest": batch.ends.at(*_FAR) if "unknown" in measures else (), "outermost": outermost}


def _titled(report: DriftReport) -> Iterator[tuple[str, _Images]]:
    """Yield the lists of images that are named."""
    if report.farthest:
        yield "farthest", report.farthest
    for name, images in report.outermost.items():
        yield f"outermost in {name}", images


def drawn(before: Summary, now: Summary, findings: tuple[Drift, ...], pair: _Pair | None) -> bytes:
    """Return a PNG."""
    from resnet_core.plotting.drift_plots import compare_batch  # a batch that is too small needs no Matplotlib

    png = io.BytesIO()
    compare_batch(before, now, findings, pair).savefig(png, format="png")
    return png.getvalue()


def not_measured(scores: Scores, why: str) -> DriftReport:
    report = DriftReport(scores.model, scores.scored, (), why)
    if (old := scores.output / DRIFT_PLOT).exists():  # of another version, or of more images
        old.unlink()
    write_report(scores, report)
    log.info("drift       %s", report.in_words())
    return report


def write_report(scores: Scores, report: DriftReport) -> None:
    text = json.dumps(described(scores, report), indent=2, ensure_ascii=False)
    write_text(scores.output / DRIFT, text + "\n")


def described(scores: Scores, report: DriftReport) -> dict[str, Any]:
    return {
        "batch": scores.batch,
        "output": str(scores.output),
        "model_name": report.version.name,
        "model_version": report.version.version,
        "images": report.images,
        "drifted": [each.measure for each in report.drifted],
        "not_measured": report.why or None,
        "measures": {each.measure: asdict(each) | {"drifted": each.drifted} for each in report.findings},
        "farthest": [{"uri": uri, "distance": distance} for uri, distance in report.farthest],
        "outermost": {
            name: [{"uri": uri, "value": value} for uri, value in images] for name, images in report.outermost.items()
        },
    }


def _emit(scores: Scores, report: DriftReport) -> None:
    """Emit the event. Its resource is the model, so that one automation hears of all its versions and batches."""
    emit_event(
        _EVENT,
        resource={
            "prefect.resource.id": f"grayline.model.{report.version.name}",
            "prefect.resource.name": report.version.name,
            "grayline.model.version": report.version.version,
            "grayline.drifted": " ".join(each.measure for each in report.drifted),
        },
        related=[
            {
                "prefect.resource.id": f"grayline.batch.{scores.batch}",
                "prefect.resource.role": "batch",
                "prefect.resource.name": scores.batch,
            }
        ],
        payload=described(scores, report) | {"summary": report.in_words()},
    )


def _counted(rows: pa.Table, ranks: Ranks) -> Unknown:
    """Count unknown images."""
    rows = rows.filter(rows["novelty"].is_valid())
    least = 1.5 / (ranks.held_out + 1)  # between the first two ranks
    marks = (rows["unknown"], pc.less(rows["novelty"], least))
    return Unknown(len(rows), *(pc.sum(mark).as_py() or 0 for mark in marks))


class _Ends:
    """The FARTHEST images at the ends of some measures; equal values by their URIs."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], pa.Table] = {}

    def add(self, rows: pa.Table) -> None:
        for name, order in _ENDS:
            here = rows.select(["uri", name]).filter(rows[name].is_valid())
            if not len(here):  # of earlier releases; PyArrow cannot select of no rows
                continue
            both = pa.concat_tables([here, self._kept.get((name, order), here.slice(0, 0))])
            keys = [(name, order), ("uri", "ascending")]
            self._kept[name, order] = both.take(pc.select_k_unstable(both, k=min(FARTHEST, len(both)), sort_keys=keys))

    def at(self, name: str, order: str) -> _Images:
        """Return URIs and values, the outermost first."""
        found = self._kept.get((name, order))
        if found is None:
            return ()
        return tuple(zip(found["uri"].to_pylist(), found[name].to_pylist(), strict=True))


class _Read(NamedTuple):
    """A batch's good rows: summary, embeddings float32 [M, D] of at most MOST of them, unknown ones, the outermost."""

    summary: Summary
    embeddings: NDArray[np.float32]
    unknown: Unknown
    ends: _Ends


def read_batch(parts: Iterable[UPath], ranks: Ranks | None = None) -> _Read:
    """Read the good rows of a batch.

    Embeddings are of the rows with the least hashes of their URIs: the order of rows and parts does not matter.
    """
    summary, sample, unknown, ends = Summary(), _Sample(), Unknown(), _Ends()
    for rows in _good_rows(parts):
        summary += summarise(rows)
        sample.add(rows["uri"], rows["embedding"])
        ends.add(rows)
        if ranks:
            unknown += _counted(rows, ranks)
    return _Read(summary, sample.embeddings, unknown, ends)


def _good_rows(parts: Iterable[UPath]) -> Iterator[pa.Table]:
    columns = ["status", "uri", "embedding", *SCORE_COLUMNS, *ADDED]
    for path in parts:
        with path.open("rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(AT_ONCE, columns=columns):
                rows = pa.Table.from_batches([with_added(batch)])
                yield rows.filter(pc.equal(rows["status"], "ok"))


class _Sample:
    """The MOST vectors whose keys have the least hashes; no more are kept at any time."""

    def __init__(self) -> None:
        self.hashes = np.empty(0, np.uint64)
        self.embeddings = np.empty((0, 0), np.float32)

    def add(self, keys: pa.ChunkedArray, vectors: pa.ChunkedArray) -> None:
        """Add vectors. keys: strings; vectors: lists of one length, or null for a row without one."""
        have = np.flatnonzero(vectors.is_valid().to_numpy())
        hashes = pd.util.hash_array(keys.take(pa.array(have)).to_numpy())
        if len(self.hashes) == MOST:
            low = hashes < self.hashes[-1]
            have, hashes = have[low], hashes[low]
        if not len(have):
            return
        chosen = vectors.take(pa.array(have)).combine_chunks()
        new = chosen.flatten().to_numpy().reshape(len(have), -1)
        every = np.concatenate([self.hashes, hashes])
        found = np.concatenate([self.embeddings, new]) if len(self.hashes) else new
        order = np.argsort(every, kind="stable")[:MOST]
        self.hashes, self.embeddings = every[order], found[order]


def markdown(scores: Scores, report: DriftReport, png: bytes) -> str:
    header = ("measure", "distance", "threshold", "PSI", "p", "drift", "")
    rows = (
        (
            drift.measure,
            f"{drift.method} {drift.distance:.3f}",
            limit(drift.threshold),
            "-" if drift.psi is None else f"{drift.psi:.3f}",
            f"{drift.p:.2g}",
            Markdown("**drift**") if drift.drifted else "no",
            drift.detail,
        )
        for drift in report.findings
    )
    return (
        f"# {plain(scores.batch)}: {plain(report.in_words())}\n\n"
        f"{plural(report.images, 'image')} against what {plain(report.version.name)} version "
        f"{report.version.version} was trained "
        "on. Drift is a distance over its threshold that chance would make with p below 0.001.\n\n"
        f"{markdown_table(header, rows, numbers=header[1:5])}\n\n{_tables(report)}{picture('drift', png)}\n"
    )


def _tables(report: DriftReport) -> str:
    tables = (
        f"Images {title}:\n\n"
        + markdown_table(("image", "value"), ((uri, f"{value:.3g}") for uri, value in images), numbers=("value",))
        for title, images in _titled(report)
    )
    return "".join(f"{table}\n\n" for table in tables)


def limit(threshold: float | None) -> str:
    return "none" if threshold is None else f"{threshold:g}"
