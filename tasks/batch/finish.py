"""Finish a batch: its rows are exactly the files of the source, or it is not finished."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from prefect import task
from prefect.cache_policies import NO_CACHE
from upath import UPath

from resnet_core.errors import plural
from resnet_core.inference.scores import read_scores
from resnet_core.reading.pool import end_idle
from resnet_core.storage import database
from resnet_core.storage.files import is_local
from tasks.artifacts import code, markdown_table, plain, publish_page
from tasks.batch.folder import check_run, remove, replace
from tasks.batch.manifest import write_manifest
from tasks.batch.values import Batch, Scores
from tasks.progress import progress
from tasks.store import BATCH_BEGUN, MANIFEST, WORK

log = logging.getLogger("grayline")

LISTED = 20  # bad files that are named
COLUMNS = ["uri", "status", "reason_code", "reason", "label", "confidence", "needs_review", "unknown"]
_CHECK = "select count(*), coalesce(sum(hash(uri)::hugeint), 0) from rows"


@dataclass
class _Tally:
    """Counts over the rows of a batch. `review` and `unknown` are None if the version has nothing to tell them by.

    `bad` has uri and reason of the first bad files.
    """

    parts: dict[str, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    confidence: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    review: int | None = None
    unknown: int | None = None
    bad: list[tuple[str, str]] = field(default_factory=list)
    check: tuple[int, int] = (0, 0)


@task(cache_policy=NO_CACHE)
def finish_batch(
    batch: Batch, seconds: float, engine: str = "torch", again: int = 0, refused: dict[str, str] | None = None
) -> Scores:
    """Check that the rows are exactly the files, remove other rows, and write the manifest.

    Raises RuntimeError if they are not. seconds: since the batch began. again: rows that were known by their
    content. refused: by engine, why it was not used.
    """
    end_idle()
    check_run(batch.folder, batch.run)
    parts = (*batch.kept, *(part.path for part in batch.waiting))
    found = tally(parts)
    if found.check != batch.check:
        raise RuntimeError(
            f"{batch.folder}: {found.check[0]} rows for {plural(batch.files, 'file')}; the batch is not complete"
        )
    clean(batch.folder, set(found.parts))
    scores = Scores(
        source=batch.source,
        output=batch.final,
        parts=tuple(batch.final / path.name for path in parts),
        model=batch.model,
        engine=engine,
        files=batch.files,
        scored=found.counts.total(),
        reused=batch.files - batch.to_score,
        labels={
            name: (found.counts[name], found.confidence[name] / found.counts[name]) for name in sorted(found.counts)
        },
        seconds=seconds,
        review=found.review,
        unknown=found.unknown,
        again=again,
        reasons=dict(found.reasons.most_common()),
        ignored=_count_rows(batch.ignored),
        refused=refused or {},
        confidential=batch.confidential,
    )
    write_manifest(batch.folder, scores, found.parts, batch.ignored)
    if (work := batch.folder / WORK).exists():
        remove(work)
    if batch.folder != batch.final:
        _remove_drafts(batch.final)
        replace(batch.final)
    for line in in_words(scores):
        log.info("score       %s", line)
    publish_page(markdown(scores, found.bad), key="scores", description=f"{plural(batch.files, 'file')} scored")
    return scores


def _count_rows(file: UPath) -> int:
    with file.open("rb") as opened:
        return int(pq.read_metadata(opened).num_rows)


def tally(parts: Iterable[UPath]) -> _Tally:
    """Count the rows of all parts, part by part."""
    parts = list(parts)
    found = _Tally()
    with database.database() as db, progress("check", len(parts), "parts") as advance:
        waiting: list[pa.Table] = []
        for path in parts:
            rows = read_scores(path, COLUMNS)
            found.parts[path.name] = len(rows)
            add(found, rows)
            waiting.append(pa.table({"uri": rows["uri"].cast(pa.string())}))
            if sum(map(len, waiting)) >= database.BATCH_ROWS:
                found.check = added(found.check, _check_of(db, waiting))
                waiting = []
            advance(1)
        found.check = added(found.check, _check_of(db, waiting))
    return found


def add(found: _Tally, rows: pa.Table) -> None:
    good = rows.filter(pc.field("status") == "ok").group_by("label")
    for row in good.aggregate([("confidence", "sum"), ([], "count_all")]).to_pylist():
        found.counts[row["label"]] += row["count_all"]
        found.confidence[row["label"]] += row["confidence_sum"]
    if rows["needs_review"].null_count < len(rows):
        found.review = (found.review or 0) + pc.sum(rows["needs_review"]).as_py()
    if rows["unknown"].null_count < len(rows):
        found.unknown = (found.unknown or 0) + pc.sum(rows["unknown"]).as_py()
    failed = rows.filter(pc.field("status") != "ok")
    found.reasons.update(failed["reason_code"].to_pylist())
    if left := LISTED - len(found.bad):
        some = failed.slice(0, left)
        found.bad += zip(some["uri"].to_pylist(), some["reason"].to_pylist(), strict=True)


def _check_of(db: Any, tables: list[pa.Table]) -> tuple[int, int]:
    """Return the sum over URIs: as good as comparing them one by one, in the memory of one number."""
    if not tables:
        return 0, 0
    db.register("rows", pa.concat_tables(tables))
    count, total = db.execute(_CHECK).fetchall()[0]
    db.unregister("rows")
    return int(count), int(total)


def added(mine: tuple[int, int], more: tuple[int, int]) -> tuple[int, int]:
    return mine[0] + more[0], mine[1] + more[1]


def clean(folder: UPath, names: set[str]) -> None:
    """Remove rows that are no longer valid."""
    for old in folder.glob("*.parquet"):
        if old.name not in names:
            old.unlink()
    _remove_drafts(folder)


def _remove_drafts(folder: UPath) -> None:
    """Remove drafts of killed runs. Only local disks have drafts (see `write_whole`)."""
    if is_local(folder):
        for name in ("*.parquet", BATCH_BEGUN, MANIFEST):
            for draft in folder.glob(f".{name}.*"):
                draft.unlink(missing_ok=True)


def in_words(scores: Scores) -> Iterator[str]:
    """Yield the lines that end the log of a batch."""
    yield f"{scores.headline()}, {scores.reused:,} known from an earlier run"
    if scores.scored and scores.unknown is None:
        yield f"unknown images are not told: {scores.model} keeps nothing to do so (`evaluate: {{novelty: 0.05}}`)"
    if scores.labels:
        yield "; ".join(f"{name} {count:,} ({mean:.3f})" for name, (count, mean) in scores.labels.items())
    if scores.reasons:
        yield scores.failures()
    yield f"{scores.speed()}; rows in {scores.output}"


def markdown(scores: Scores, bad: list[tuple[str, str]]) -> str:
    """Return the Prefect artifact: labels, and the first bad files as (uri, reason)."""
    header = ("label", "images", "mean confidence")
    labels = ((name, f"{count:,}", f"{mean:.3f}") for name, (count, mean) in scores.labels.items())
    bad_files = bad
    text = (
        f"# {plural(scores.files, 'file')} scored by {plain(str(scores.model))}\n\n"
        f"{scores.outcome()}; {scores.speed()}\n\n"
        f"from {code(scores.source)} to {code(scores.output)}\n\n"
        f"{markdown_table(header, labels, numbers=header[1:])}\n"
    )
    return text + (f"\n{markdown_table(('bad file', 'reason'), bad_files)}\n" if bad else "")
