"""Batches as scoring leaves them: real digits, scored by an untrained network, some of the files bad."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from resnet_core.inference import scores as score_rows
from resnet_core.shards.format import METADATA_KEY
from tasks.batch.values import Scores
from tasks.values import ModelVersion
from tests.resnet_core.model.test_classifier import a_classifier

MODEL = ModelVersion("digits", "3", "run")
BAD = 7  # each seventh file


def a_batch(folder: Path, images: np.ndarray, *, files: int = 300, part: int = 128, seed: int = 0) -> Scores:
    """A finished batch of `files` files in parts of `part`: its name is that of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    table = scored(images[seed : seed + 64], files)
    for number, start in enumerate(range(0, files, part)):
        pq.write_table(table.slice(start, part), folder / f"{number:06}.parquet")
    parts = tuple(UPath(path) for path in sorted(folder.glob("*.parquet")))
    failed = len(range(0, files, BAD))
    return Scores(
        source="images",
        output=UPath(folder),
        parts=parts,
        model=MODEL,
        engine="torch",
        files=files,
        scored=files - failed,
        reused=0,
        labels={},
        seconds=1.0,
    )


def scored(images: np.ndarray, count: int) -> pa.Table:
    """`count` rows; the images come again and again."""
    classifier = a_classifier()
    pixels = np.kron(images, np.ones((1, 2, 2), np.uint8))
    found = score_rows.predictions(classifier, classifier.probabilities(pixels))
    rows = np.arange(count)
    good = rows[rows % BAD != 0]
    predicted = score_rows.spread(found.take(pa.array(good % len(images))), good, count)
    read = pa.table(
        {
            "image_id": [f"{row:064x}" for row in rows],
            "reason_code": ["damaged" if row % BAD == 0 else None for row in rows],
            "reason": ["cannot be decoded" if row % BAD == 0 else None for row in rows],
            "width": pa.array([8] * count, pa.int32()),
            "height": pa.array([8] * count, pa.int32()),
            **{name: pa.array([0.25] * count, pa.float32()) for name in ("brightness", "contrast", "sharpness")},
        }
    )
    files = pa.table(
        {
            "uri": [f"/images/{row:06} 'ü,\";.png" for row in rows],
            "size": pa.array([100] * count, pa.int64()),
            "modified": ["1"] * count,
        }
    )
    at = datetime(2026, 11, 25, 7, 44, 2, 123456, UTC)
    table = score_rows.score_table(files, read, predicted, (MODEL.name, MODEL.version), at)
    return table.replace_schema_metadata({METADATA_KEY: "{}"})


def big_part(path: Path, images: np.ndarray, count: int = 4096, features: int = 128) -> UPath:
    """A part of rows with embeddings: half a kilobyte each."""
    table = scored(images[:64], count)
    values = pa.array(np.random.default_rng(0).normal(size=count * features).astype(np.float32))
    found = score_rows.lists(values, [features] * count)
    place = table.schema.get_field_index("embedding")
    pq.write_table(table.set_column(place, score_rows.SCHEMA.field(place), found), path)
    return UPath(path)
