"""Score: every file of a source gets exactly one row, bad files too.

A batch is cut into parts; each becomes one Parquet file, whole or not there, named by the digest of
the model version and of the files in it. A batch that was killed goes on with the parts it lacks.
`_manifest.json` is written last: a folder that has it is complete.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from prefect import task
from prefect.artifacts import create_markdown_artifact
from upath import UPath

from resnet_core import database, shards
from resnet_core.classifier import Classifier, Prediction
from resnet_core.digest import source_digest
from resnet_core.errors import UserError
from resnet_core.files import absolute, write_text, write_whole
from resnet_core.manifest import LISTED
from resnet_core.read import Limits
from resnet_core.reading import end_idle, read_files
from resnet_core.shards import METADATA_KEY
from resnet_core.sources import check_source, list_manifest, list_source, source_kind
from tasks.held_out import SCORING
from tasks.parts import COLUMNS, Part, make_parts
from tasks.pixels import READING
from tasks.registry import load_classifier
from tasks.values import Batch, ModelVersion, Scores

log = logging.getLogger("grayline")

BEGUN, MANIFEST, WORK = "_batch.json", "_manifest.json", "_work"
# What lies in an archive side by side is read side by side.
FILES = f"""
select {", ".join(f'"{name}"' for name in COLUMNS)}
from (select * replace (coalesce(size, 0) as size, coalesce(modified, '') as modified) from listed)
where not coalesce(ignored, false) order by container nulls first, "offset", uri
"""
SCORES_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("label", pa.string()),
        ("confidence", pa.float32()),
        ("probabilities", pa.list_(pa.float32())),
        ("prediction_set", pa.list_(pa.string())),  # the classes it may well be of; null: the version knows no sets
        ("needs_review", pa.bool_()),  # whether they are not exactly one
        ("model_name", pa.string()),
        ("model_version", pa.string()),
        ("scored_at", pa.timestamp("us", tz="UTC")),
    ]
)


@task
def plan_batch(source: str, output: UPath, model: ModelVersion) -> Batch:
    """List the source, cut it into parts, and find those that are scored already. Raises UserError
    for a source that is missing or empty, and an output that is taken."""
    check_places(source, output)
    place = source if "://" in source else str(absolute(UPath(source)))
    with database.database() as db:
        database.create(db, "listed", LISTED, list_files(place))
        if not (files := database.count(db, "select count(*) from listed where not ignored")):
            raise UserError(f"--source: {source} holds no images. Give a folder of images.")
        begin(output, {"source": place, "model": asdict(model)})
        code = source_digest(*READING, *SCORING)
        listing = output / WORK / "listing.parquet"
        parts = make_parts(lambda rows: database.pieces(db, FILES, rows), files, listing, output, model, code)
        ignored = db.sql("select path from listed where ignored order by path").fetchall()
    waiting = tuple(part for part in parts if not part.path.exists())
    return Batch(place, output, model, parts, waiting, tuple(path for (path,) in ignored), files)


def list_files(source: str) -> Iterator[pa.RecordBatch]:
    return list_manifest(UPath(source)) if source_kind(source) == "manifest" else list_source(source)


def check_places(source: str, output: UPath) -> None:
    """Raises UserError unless there is a source to list, and the output is not within it."""
    try:
        check_source(source)
    except UserError as error:
        raise UserError(f"--source: {error}") from None
    folder = absolute(UPath(source))
    if output == folder or folder in output.parents:
        raise UserError(f"--output: {output} lies in the source, and would be scored itself. Choose another folder.")


def begin(output: UPath, job: dict[str, Any]) -> None:
    """Claim the folder for this job: the same one may go on, another may not write into it."""
    mark = output / BEGUN
    if mark.exists():
        found = json.loads(mark.read_text(encoding="utf-8"))
        if found != job:
            raise UserError(
                f"--output: {output} holds a batch of {found['source']} by {found['model']['name']} "
                f"version {found['model']['version']}. Choose another folder."
            )
    elif output.exists() and any(output.glob("*.parquet")):
        raise UserError(f"--output: {output} holds Parquet files of something else. Choose another folder.")
    else:
        write_text(mark, json.dumps(job, indent=2) + "\n")


@task(retries=2, retry_delay_seconds=5, task_run_name="score {part.path.name}")
def score_part(part: Part, model: ModelVersion, tracking_uri: str, device: str, limits: Limits) -> int:
    """Read and score the files of one part, and write its rows. Returns their number."""
    trained = load_classifier(tracking_uri, model, device)
    files = part.files()
    images = read_files(files, trained.preprocessing, limits)
    table = score_rows(trained, files["uri"], images, model)
    with write_whole(part.path) as draft:
        pq.write_table(table, draft)
    return len(table)


def score_rows(trained: Classifier, uris: pa.ChunkedArray, images: pa.Table, model: ModelVersion) -> pa.Table:
    """One row an image, in order; each prediction goes to the row whose pixels it was made from."""
    good = np.flatnonzero(images["reason"].is_null().to_numpy())
    pixels = shards.unpacked(images["pixels"], trained.preprocessing.size)
    found = dict(zip(good.tolist(), trained.decide(trained.probabilities(pixels[good])), strict=True))
    at = datetime.now(UTC)
    rows = [
        {
            "image_id": image_id,
            "uri": uri,
            "status": "failed" if reason else "ok",
            "reason": reason,
            **(prediction_columns(found[row]) if row in found else {}),
            "model_name": model.name,
            "model_version": model.version,
            "scored_at": at,
        }
        for row, (uri, image_id, reason) in enumerate(
            zip(uris.to_pylist(), images["image_id"].to_pylist(), images["reason"].to_pylist(), strict=True)
        )
    ]
    metadata = {METADATA_KEY: json.dumps({"classes": list(trained.classes)})}
    return pa.Table.from_pylist(rows, SCORES_SCHEMA.with_metadata(metadata))


def prediction_columns(found: Prediction) -> dict[str, Any]:
    return {field.name: getattr(found, field.name) for field in fields(found)}


@task
def finish_batch(batch: Batch, seconds: float) -> Scores:
    """Check that the rows are the files, take away parts of files that are gone, write the manifest."""
    end_idle()
    counts, confidence, review, bad = tally(batch)
    names = {part.path.name for part in batch.parts}
    for old in batch.output.glob("*.parquet"):
        if old.name not in names:
            old.unlink()
    scores = Scores(
        output=batch.output,
        model=batch.model,
        files=batch.files,
        scored=counts.total(),
        failed=batch.files - counts.total(),
        reused=batch.files - sum(part.count for part in batch.waiting),
        labels={name: (counts[name], confidence[name] / counts[name]) for name in sorted(counts)},
        seconds=seconds,
        review=review,
    )
    write_text(batch.output / MANIFEST, json.dumps(manifest(batch, scores), indent=2, ensure_ascii=False) + "\n")
    work = batch.output / WORK
    work.fs.rm(work.path, recursive=True)
    log.info(
        "score       %s files: %s scored, %s failed, %s known from an earlier run%s",
        f"{scores.files:,}", f"{scores.scored:,}", f"{scores.failed:,}", f"{scores.reused:,}", to_see(scores),
    )  # fmt: skip
    create_markdown_artifact(markdown(batch, scores, bad), key="scores", description=f"{batch.files:,} files scored")
    return scores


def tally(batch: Batch) -> tuple[Counter[str], Counter[str], int | None, list[tuple[str, str]]]:
    """Of each label the number of images and the sum of their confidences; how many images a person should
    see, None where the version does not say; of the bad files uri and reason. Raises RuntimeError unless the
    rows of each part are its files."""
    counts: Counter[str] = Counter()
    confidence: Counter[str] = Counter()
    review: int | None = None
    bad: list[tuple[str, str]] = []
    for part in batch.parts:
        rows = read_part_scores(part)
        if rows["uri"].to_pylist() != part.files()["uri"].to_pylist():
            raise RuntimeError(f"{part.path}: {len(rows)} rows for {part.count} files; the batch is not complete")
        good = rows.filter(pc.field("status") == "ok").group_by("label")
        for row in good.aggregate([("confidence", "sum"), ([], "count_all")]).to_pylist():
            counts[row["label"]] += row["count_all"]
            confidence[row["label"]] += row["confidence_sum"]
        if rows["needs_review"].null_count < len(rows):
            review = (review or 0) + pc.sum(rows["needs_review"]).as_py()
        failed = rows.filter(pc.field("status") != "ok")
        bad += zip(failed["uri"].to_pylist(), failed["reason"].to_pylist(), strict=True)
    return counts, confidence, review, bad


def read_part_scores(part: Part) -> pa.Table:
    with part.path.open("rb") as file:
        return pq.read_table(file, columns=["uri", "status", "reason", "label", "confidence", "needs_review"])


def manifest(batch: Batch, scores: Scores) -> dict[str, Any]:
    return {
        "source": batch.source,
        "model_name": batch.model.name,
        "model_version": batch.model.version,
        "files": batch.files,
        "scored": scores.scored,
        "failed": scores.failed,
        "needs_review": scores.review,
        "labels": {name: {"count": n, "mean_confidence": mean} for name, (n, mean) in scores.labels.items()},
        "parts": {part.path.name: part.count for part in batch.parts},
        "ignored": list(batch.ignored),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def to_see(scores: Scores) -> str:
    return "" if scores.review is None else f"; {scores.review:,} need a person's eyes"


def markdown(batch: Batch, scores: Scores, bad: list[tuple[str, str]]) -> str:
    """The tables of the Prefect artifact; of the bad files, the first twenty."""
    labels = "\n".join(f"| {name} | {n:,} | {mean:.3f} |" for name, (n, mean) in scores.labels.items())
    listed = "\n".join(f"| `{uri}` | {reason} |" for uri, reason in bad[:20])
    text = (
        f"# {batch.files:,} files scored by {batch.model.name} version {batch.model.version}\n\n"
        f"{scores.scored:,} scored, {scores.failed:,} failed, {scores.reused:,} of them in an earlier run; "
        f"{scores.images_per_second:,.0f} images/s{to_see(scores)}\n\nfrom `{batch.source}` to `{batch.output}`\n\n"
        f"| label | images | mean confidence |\n| --- | --- | --- |\n{labels}\n"
    )
    return text + (f"\n| bad file | reason |\n| --- | --- |\n{listed}\n" if bad else "")
