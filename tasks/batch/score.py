"""Score: the files of one part become the rows of one file, whole or not at all.

A worker reads images in a process beside it and computes on one thread. As many workers as cores keep all cores
busy, whether decoding or the network takes longer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from upath import UPath

from resnet_core.images.limits import Limits
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.inference.engines import Engine
from resnet_core.inference.scores import PREDICTED, predictions, score_table, with_embeddings, with_metadata
from resnet_core.model.classifier import Classifier
from resnet_core.model.features import embed
from resnet_core.reading.pool import iterate_files
from resnet_core.reading.shard_rows import iterate_rows
from resnet_core.shards import format as shards
from resnet_core.sources import shard_files
from resnet_core.storage.database import write_parquet
from tasks.batch.engine import open_engine
from tasks.batch.folder import SupersededError, check_run, read_known, read_tried
from tasks.batch.values import Batch, EngineChoice, PartOutcome
from tasks.parts import Part
from tasks.registry.versions import load_classifier
from tasks.values import ModelVersion

_SAMPLE = 256  # images


@dataclass(frozen=True)
class Scoring:
    """The settings that all parts of a batch share.

    `embedded` is the share of images whose embedding is kept. `known` is a file of rows by content, or None. `run`
    is the batch's run. `tried` is the batch's.
    """

    model: ModelVersion
    engine: EngineChoice
    tracking_uri: str
    device: str
    limits: Limits
    run: str
    known: UPath | None = None
    embedded: float = 0.0
    tried: UPath | None = None


def may_succeed(task: object, run: object, state: State) -> bool:
    """Return whether another try may succeed: after a failure of the store, but not once another run owns the
    batch.
    """
    return not isinstance(state.result(raise_on_failure=False), SupersededError)


@task(
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=5,
    retry_condition_fn=may_succeed,
    task_run_name="score {part.path.name}",
)
def score_part(part: Part, how: Scoring) -> PartOutcome:
    """Read and score the files of one part, and write its rows.

    Raises SupersededError once another run has taken the batch over.
    """
    trained = load_classifier(how.tracking_uri, how.model, how.device)
    engine = open_engine(how.engine, how.model, how.tracking_uri, how.device)
    known = read_known(how.known) if how.known else None
    tried = read_tried(how.tried) if how.tried else {}
    files, done, tables, again = part.files(), 0, [], 0
    for images in read_images(files, trained.preprocessing, how.limits, engine.batch_size):
        predicted, looked_up = predict(trained, engine, images, known, how.embedded)
        some = files.slice(done, len(images))
        names = (how.model.name, how.model.version)
        tables.append(score_table(some, images, predicted, names, datetime.now(UTC), tried))
        done, again = done + len(images), again + looked_up
    table = with_metadata(pa.concat_tables(tables), trained.classes)
    check_run(part.path.parent, how.run)
    write_parquet(part.path, table)
    return outcome(table, again, engine.refused)


def sample(batch: Batch, settings: Preprocessing, limits: Limits) -> NDArray[np.uint8]:
    """Return uint8 [N, S, S]: up to SAMPLE real images of the batch, to try engines on."""
    if not batch.waiting:
        return np.empty((0, settings.size, settings.size), np.uint8)
    files = batch.waiting[len(batch.waiting) // 2].files().slice(0, _SAMPLE)
    images = pa.concat_tables(read_images(files, settings, limits, _SAMPLE))
    good = np.flatnonzero(images["reason_code"].is_null().to_numpy())
    return shards.unpacked(images["pixels"], settings.size)[good]


def outcome(table: pa.Table, again: int, refused: tuple[str, str] | None = None) -> PartOutcome:
    counts = pc.value_counts(table["label"].combine_chunks().drop_null()).to_pylist()
    failed = pc.sum(pc.equal(table["status"], "failed")).as_py() or 0
    return PartOutcome(len(table), failed, {each["values"]: each["counts"] for each in counts}, again, refused)


def read_images(files: pa.Table, settings: Preprocessing, limits: Limits, batch_size: int) -> Iterator[pa.Table]:
    """Yield images about a batch at a time, in the columns of `resnet_core.reading.image.schema`.

    While the caller works on a batch, the next is read.
    """
    if files["kind"][0].as_py() == shard_files.KIND:
        yield from iterate_rows(files, settings.size, batch_size)
        return
    waiting: list[pa.Table] = []
    for table in iterate_files(files, settings, limits):
        waiting.append(table)
        if sum(map(len, waiting)) >= batch_size:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def predict(
    trained: Classifier, engine: Engine, images: pa.Table, known: pa.Table | None, embedded: float
) -> tuple[pa.Table, int]:
    """Return PREDICTED, a row per image, null for bad images, and the number of images known by their content."""
    good = np.flatnonzero(images["reason_code"].is_null().to_numpy())
    looked_up = _find_known(images["image_id"], known, good)
    fresh = good[looked_up < 0]
    pixels = shards.unpacked(images["pixels"], trained.preprocessing.size)[fresh]
    made = predictions(trained, *(engine.answer(pixels) if engine.answer else (engine.run(pixels), None)))
    if embedded and len(wanted := sampled(images["image_id"].take(pa.array(fresh)), embedded)):
        made = with_embeddings(made, wanted, embed(trained, pixels[wanted]))
    index = np.full(len(images), -1, np.int64)
    index[fresh] = np.arange(len(fresh))
    if known is not None:
        again = good[looked_up >= 0]
        index[again] = len(fresh) + looked_up[looked_up >= 0]
        rows = known.select(PREDICTED.names).cast(PREDICTED)
        made = pa.concat_tables([made, rows if embedded else with_embeddings(rows)])
    return made.take(pa.array(index, mask=index < 0)), len(good) - len(fresh)


def _find_known(image_ids: pa.ChunkedArray, known: pa.Table | None, good: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the row in `known` of each good image; -1 without one."""
    if known is None:
        return np.full(len(good), -1, np.int64)
    places = pc.index_in(image_ids.take(pa.array(good)), value_set=known["image_id"].combine_chunks())
    return pc.fill_null(places, -1).to_numpy().astype(np.int64)


def sampled(image_ids: pa.ChunkedArray, share: float) -> NDArray[np.int64]:
    """Return the places of a share of the images, the same ones in any order and parts. A hash is as good as
    a draw.
    """
    most = share * 2**32
    return np.array([k for k, image_id in enumerate(image_ids.to_pylist()) if int(image_id[:8], 16) < most], np.int64)
