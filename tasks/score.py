"""Score: every file of a source gets exactly one row, bad files too.

A batch is cut into parts; each becomes one Parquet file, whole or not there, named by the digest of
the model version and of the files in it. A batch that was killed goes on with the parts it lacks.
`_manifest.json` is written last: a folder that has it is complete.
"""

import json
import logging
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task
from prefect.artifacts import create_markdown_artifact
from upath import UPath

from resnet_core import classifier, grayscale, normalisation, preprocessing, read, resnet
from resnet_core.classifier import Classifier
from resnet_core.digest import source_digest
from resnet_core.errors import UserError
from resnet_core.files import absolute, write_text, write_whole
from resnet_core.read import ReadImage, read_file
from resnet_core.shards import METADATA_KEY
from resnet_core.sources import list_files
from tasks.parts import Part, make_parts
from tasks.registry import load_classifier
from tasks.values import Batch, ModelVersion, Scores

log = logging.getLogger("grayline")

BEGUN, MANIFEST = "_batch.json", "_manifest.json"
SCORES_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("label", pa.string()),
        ("confidence", pa.float32()),
        ("probabilities", pa.list_(pa.float32())),
        ("model_name", pa.string()),
        ("model_version", pa.string()),
        ("scored_at", pa.timestamp("us", tz="UTC")),
    ]
)


@task
def plan_batch(source: str, output: UPath, model: ModelVersion) -> Batch:
    """List the source, cut it into parts, and find those that are scored already. Raises UserError
    for a source that is missing or empty, and an output that is taken."""
    folder = check_folders(source, output)
    listing = list_files(folder)
    if not listing.files:
        raise UserError(f"--source: {source} holds no images. Give a folder of images.")
    begin(output, {"source": str(folder), "model": asdict(model)})
    files = pd.DataFrame([asdict(file) for file in listing.files])
    code = source_digest(classifier, grayscale, normalisation, preprocessing, read, resnet)
    parts = make_parts(files, output, model, code)
    waiting = tuple(part for part in parts if not part.path.exists())
    return Batch(str(folder), output, model, parts, waiting, listing.ignored, len(files))


def check_folders(source: str, output: UPath) -> UPath:
    """The source, absolute. Raises UserError unless it is there, and the output is not within it."""
    folder = absolute(UPath(source))
    if not folder.is_dir():
        raise UserError(f"--source: there is no folder {source}. Give a folder of images.")
    if output == folder or folder in output.parents:
        raise UserError(f"--output: {output} lies in the source, and would be scored itself. Choose another folder.")
    return folder


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
def score_part(part: Part, model: ModelVersion, tracking_uri: str, device: str, max_pixels: int) -> int:
    """Read and score the files of one part, and write its rows. Returns their number."""
    trained = load_classifier(tracking_uri, model, device)
    images = [read_file(uri, trained.preprocessing, max_pixels) for uri in part.files["uri"]]
    table = score_rows(trained, part.files["uri"].tolist(), images, model)
    with write_whole(part.path) as draft:
        pq.write_table(table, draft)
    return len(images)


def score_rows(trained: Classifier, uris: list[str], images: list[ReadImage], model: ModelVersion) -> pa.Table:
    """One row an image, in order; each prediction goes to the row whose pixels it was made from."""
    good = [row for row, image in enumerate(images) if image.pixels is not None]
    pixels = [image.pixels for image in images if image.pixels is not None]
    found = trained.decide(trained.probabilities(np.stack(pixels))) if pixels else []
    predictions = dict(zip(good, found, strict=True))
    at = datetime.now(UTC)
    rows = [
        {
            "image_id": image.image_id,
            "uri": uri,
            "status": "failed" if image.reason else "ok",
            "reason": image.reason,
            "label": predictions[row].label if row in predictions else None,
            "confidence": predictions[row].confidence if row in predictions else None,
            "probabilities": predictions[row].probabilities if row in predictions else None,
            "model_name": model.name,
            "model_version": model.version,
            "scored_at": at,
        }
        for row, (uri, image) in enumerate(zip(uris, images, strict=True))
    ]
    metadata = {METADATA_KEY: json.dumps({"classes": list(trained.classes)})}
    return pa.Table.from_pylist(rows, SCORES_SCHEMA.with_metadata(metadata))


@task
def finish_batch(batch: Batch, seconds: float) -> Scores:
    """Check that the rows are the files, take away parts of files that are gone, write the manifest."""
    rows = pd.concat([read_part_scores(part) for part in batch.parts], ignore_index=True)
    listed = Counter(uri for part in batch.parts for uri in part.files["uri"])
    if Counter(rows["uri"]) != listed:
        raise RuntimeError(f"{batch.output}: {len(rows)} rows for {batch.files} files; the batch is not complete")
    names = {part.path.name for part in batch.parts}
    for old in batch.output.glob("*.parquet"):
        if old.name not in names:
            old.unlink()
    good = rows[rows["status"] == "ok"]
    by_label = good.groupby("label")["confidence"].agg(["size", "mean"])
    scores = Scores(
        output=batch.output,
        model=batch.model,
        files=batch.files,
        scored=len(good),
        failed=len(rows) - len(good),
        reused=batch.files - sum(len(part.files) for part in batch.waiting),
        labels={str(name): (int(row["size"]), float(row["mean"])) for name, row in by_label.iterrows()},
        seconds=seconds,
    )
    write_text(batch.output / MANIFEST, json.dumps(manifest(batch, scores), indent=2, ensure_ascii=False) + "\n")
    log.info(
        "score       %s files: %s scored, %s failed, %s known from an earlier run",
        f"{scores.files:,}", f"{scores.scored:,}", f"{scores.failed:,}", f"{scores.reused:,}",
    )  # fmt: skip
    create_markdown_artifact(markdown(batch, scores, rows), key="scores", description=f"{batch.files:,} files scored")
    return scores


def read_part_scores(part: Part) -> pd.DataFrame:
    with part.path.open("rb") as file:
        return pd.read_parquet(file, columns=["uri", "status", "reason", "label", "confidence"])


def manifest(batch: Batch, scores: Scores) -> dict[str, Any]:
    return {
        "source": batch.source,
        "model_name": batch.model.name,
        "model_version": batch.model.version,
        "files": batch.files,
        "scored": scores.scored,
        "failed": scores.failed,
        "labels": {name: {"count": n, "mean_confidence": mean} for name, (n, mean) in scores.labels.items()},
        "parts": {part.path.name: len(part.files) for part in batch.parts},
        "ignored": list(batch.ignored),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def markdown(batch: Batch, scores: Scores, rows: pd.DataFrame) -> str:
    """The tables of the Prefect artifact; of the bad files, the first twenty."""
    labels = "\n".join(f"| {name} | {n:,} | {mean:.3f} |" for name, (n, mean) in scores.labels.items())
    bad = rows[rows["status"] == "failed"]
    listed = "\n".join(f"| `{row.uri}` | {row.reason} |" for row in bad.head(20).itertuples())
    text = (
        f"# {batch.files:,} files scored by {batch.model.name} version {batch.model.version}\n\n"
        f"{scores.scored:,} scored, {scores.failed:,} failed, {scores.reused:,} of them in an earlier run; "
        f"{scores.images_per_second:,.0f} images/s\n\nfrom `{batch.source}` to `{batch.output}`\n\n"
        f"| label | images | mean confidence |\n| --- | --- | --- |\n{labels}\n"
    )
    return text + (f"\n| bad file | reason |\n| --- | --- |\n{listed}\n" if len(bad) else "")
