"""A scored batch of the digits, as `classify-batch` leaves it: real images, and what a linear model says of them."""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from resnet_core.inference.scores import SCHEMA, with_metadata
from tests.versions import Digits, predicted

REVIEWED = 0.6  # below it the prediction set has two classes
PARTS = 3


def write_batch(
    folder: Path, digits: Digits, count: int = 120, classes: Sequence[str] = tuple("0123456789"), bad: int = 0
) -> tuple[Path, list[str]]:
    """`count` digits and `bad` files that are no images under folder/new, their rows in folder/scores/new. Returns the
    folder of the rows, and the true label of each digit, in the order of its name."""
    images, labels, shares = predicted(digits)
    (folder / "new").mkdir(parents=True)
    rows = []
    for number in range(count):
        path = folder / "new" / f"{number:04}.png"
        Image.fromarray(images[number]).save(path)
        rows.append(row_of(path, shares[number], classes))
    for number in range(bad):
        path = folder / "new" / f"bad-{number:04}.png"
        path.write_bytes(b"no image")
        rows.append(
            blank(path)
            | {"status": "failed", "reason_code": "unsupported", "reason": "unsupported: <b>no</b> known format"}
        )
    scores = folder / "scores" / "new"
    scores.mkdir(parents=True)
    for part, start in enumerate(range(0, len(rows), -(-len(rows) // PARTS))):
        table = pa.Table.from_pylist(rows[start : start + -(-len(rows) // PARTS)], SCHEMA)
        pq.write_table(with_metadata(table, classes), scores / f"{part}.parquet", write_page_checksum=True)
    review = sum(bool(row["needs_review"]) for row in rows)
    manifest = {
        "source": str(folder / "new"), "model_name": "digits", "model_version": "1", "files": len(rows),
        "scored": count, "failed": bad, "needs_review": review,
    }  # fmt: skip
    (scores / "_manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return scores, [classes[label] for label in labels[:count]]


def blank(path: Path) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(SCHEMA.names)
    image_id = hashlib.sha256(path.read_bytes()).hexdigest()
    known = {"image_id": image_id, "uri": str(path), "model_name": "digits", "model_version": "1"}
    return row | known | {"scored_at": datetime.now(UTC), "size": path.stat().st_size, "modified": ""}


def row_of(path: Path, shares: np.ndarray, classes: Sequence[str]) -> dict[str, object]:
    best = np.argsort(-shares, kind="stable")[:5].tolist()
    kept = best[: 1 if shares[best[0]] >= REVIEWED else 2]
    return blank(path) | {
        "status": "ok",
        "label": classes[best[0]],
        "confidence": float(shares[best[0]]),
        "probabilities": shares.tolist(),
        "prediction_set": [classes[k] for k in kept],
        "needs_review": len(kept) != 1,
        "top_labels": [classes[k] for k in best],
        "top_probabilities": shares[best].tolist(),
        "width": 8,
        "height": 8,
    }
