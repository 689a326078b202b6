"""Scores: the rows of a batch, one per file, with the file's facts, the prediction, and the model's version.

All columns of a part are made at once, as Arrow arrays: a dictionary per image would take as long as reading a shard.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from upath import UPath

from resnet_core.model.classifier import Classifier, checked
from resnet_core.model.novelty import Distances
from resnet_core.reasons import MOST_TRIES, TRIED_AGAIN, with_reason_codes
from resnet_core.shards.format import METADATA_KEY
from resnet_core.storage.database import file_name
from resnet_core.storage.files import whole

# Largest shares of the picked rows: bad files, and rows drawn from each label whatever their confidence.
# Drawn rows show errors of which the model is certain.
FAILED, _SAMPLED = 0.1, 0.2
_PICK = pa.schema(
    [
        ("uri", pa.string()),
        ("image_id", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("label", pa.string()),
        ("confidence", pa.float32()),
        ("needs_review", pa.bool_()),
        ("review_reason", pa.string()),
        ("unknown", pa.bool_()),
        ("top_labels", pa.list_(pa.string())),
        ("top_probabilities", pa.list_(pa.float32())),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
_WANTED = "status = 'ok' and (len($labels) = 0 or label in (select unnest($labels::varchar[])))"
_COUNT = f"""
select count(*) filter ({_WANTED}), count(distinct label) filter ({_WANTED}),
    count(*) filter (status <> 'ok' and len($labels) = 0), count(*) filter ({_WANTED} and needs_review)
from scores
"""
# Both queries need memory for their results only, not for their input.
_DRAWN = """
select unnest(arg_min(uri, hash(uri), {each})) as uri, 'drawn' as why from scores where {wanted} group by label
limit {most}
"""
_WORST = """
select uri, case when unknown then 'unknown' when needs_review then 'review' else 'unsure' end as why from scores
where {wanted} and uri not in (select uri from picked)
order by coalesce(unknown, false) desc, coalesce(needs_review, false) desc, confidence, uri limit {most}
"""
_BAD = "select uri, 'failed' as why from scores where status <> 'ok' order by hash(uri) limit {most}"
ROWS = f"""
select {", ".join(_PICK.names)} from scores join picked using (uri)
order by status <> 'ok', coalesce(unknown, false) desc, coalesce(needs_review, false) desc, confidence, uri
"""


@dataclass(frozen=True)
class Picks:
    """`rows` (_PICK) to look at, of `files`: unknown ones first, then others in need of review, bad files last.

    `review`: number of files that need one. `why`: number of rows by reason: unknown, review, unsure, drawn, failed.
    """

    rows: pa.Table
    files: int
    review: int
    why: dict[str, int]


def pick(db: duckdb.DuckDBPyConnection, files: Sequence[str], limit: int, labels: Sequence[str] = ()) -> Picks:
    """Pick at most `limit` rows from the Parquet files of a batch.

    Unknown images come first, then others that need review, then those with the least confidence. Rows are also drawn
    from each label, and some are bad files. labels: only rows with these labels, without bad files; empty: all.
    """
    _view(db, files)
    counts = db.execute(_COUNT, {"labels": list(labels)}).fetchall()[0]
    good, classes, bad, review = map(int, counts)
    failed = min(bad, max(int(limit * FAILED), limit - good))
    each = max(1, int(limit * _SAMPLED) // max(1, classes))
    drawn = min(int(limit * _SAMPLED) if limit < good + failed else 0, classes * each)
    db.execute("create or replace temp table picked (uri varchar, why varchar)")
    for query, most in ((_DRAWN, drawn), (_WORST, limit - failed - drawn)):
        text = query.format(each=each, most=most, wanted=_WANTED)
        db.execute(f"insert into picked {text}", {"labels": list(labels)})
    db.execute(f"insert into picked {_BAD.format(most=failed)}")
    why = dict(db.sql("select why, count(*) from picked group by why").fetchall())
    return Picks(db.sql(ROWS).to_arrow_table().cast(_PICK), good + bad, review, why)


def take(db: duckdb.DuckDBPyConnection, files: Sequence[str], why: Mapping[str, str]) -> Picks:
    """Take rows by their URIs, in that order. why: a reason for each."""
    _view(db, files)
    counts = "select count(*), count(*) filter (needs_review) from scores"
    found, review = db.sql(counts).fetchall()[0]
    wanted = pa.array(why, pa.string())
    query = f"select {', '.join(_PICK.names)} from scores where uri in (select unnest($uris::varchar[]))"
    table = db.sql(query, params={"uris": wanted.to_pylist()}).to_arrow_table().cast(_PICK)
    order = pc.index_in(wanted, value_set=table["uri"].combine_chunks())
    return Picks(table.take(order.drop_null()), found, review, dict(Counter(why.values())))


def _view(db: duckdb.DuckDBPyConnection, files: Sequence[str]) -> None:
    """Make the view `scores` of all rows in the columns of _PICK; rows of earlier releases lack some."""
    files = [file_name(file) for file in files]
    description = db.execute("select * from read_parquet($files) limit 0", {"files": files}).description or []
    existing = {column[0] for column in description}
    columns = ", ".join(name if name in existing else f"null as {name}" for name in _PICK.names)
    listed = ", ".join(f"'{file.replace(chr(39), 2 * chr(39))}'" for file in files)
    db.execute(f"create or replace temp view scores as select {columns} from read_parquet([{listed}])")


_TOP = 5  # classes in `top_labels`

PREDICTED = pa.schema(
    [
        ("label", pa.string()),
        ("confidence", pa.float32()),
        ("probabilities", pa.list_(pa.float32())),
        ("prediction_set", pa.list_(pa.string())),  # plausible classes; null: a version without sets
        ("needs_review", pa.bool_()),  # true unless the set has exactly one class and the image is not unknown
        ("review_reason", pa.string()),  # `resnet_core.model.classifier.REASONS`, joined by ", "
        ("novelty", pa.float32()),  # p-value of `distance`; null: the version or the engine has none
        ("unknown", pa.bool_()),  # whether it is below the version's level
        ("distance", pa.float32()),  # from the images that were learned, in the network's features
        ("top_labels", pa.list_(pa.string())),  # up to _TOP classes, the most probable first
        ("top_probabilities", pa.list_(pa.float32())),
        ("embedding", pa.list_(pa.float32())),  # input of the classifier's last layer; null if not requested
    ]
)
_READ = pa.schema(
    [
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("brightness", pa.float32()),
        ("contrast", pa.float32()),
        ("sharpness", pa.float32()),
    ]
)
_KNOWN_BY = pa.schema([("size", pa.int64()), ("modified", pa.string())])  # a file with other values has changed
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("status", pa.string()),
        ("reason_code", pa.string()),  # `resnet_core.reasons.ReasonCode`
        ("reason", pa.string()),  # text for people
        *PREDICTED,
        *_READ,
        *_KNOWN_BY,
        ("tries", pa.int32()),  # runs that have tried a file with a transient reason; null: no such file
        ("model_name", pa.string()),
        ("model_version", pa.string()),
        ("scored_at", pa.timestamp("us", tz="UTC")),
    ]
)


def predictions(
    classifier: Classifier, probabilities: NDArray[np.float32], distances: Distances | None = None
) -> pa.Table:
    """Calibrated float32 [N, C] -> a row per image in the columns of PREDICTED, without embeddings.

    distances: of the engine, [N]. Raises NotANumberError if one of them is not a number: no row says such a thing.
    """
    count, names = len(checked(probabilities)), pa.array(classifier.classes, pa.string())
    judged = classifier.judge(probabilities, distances)
    chosen, sets = judged.decided, judged.sets
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :_TOP]
    columns = {
        "label": names.take(pa.array(chosen)),
        "confidence": pa.array(probabilities[np.arange(count), chosen], pa.float32()),
        "probabilities": lists(pa.array(probabilities.ravel(), pa.float32()), [probabilities.shape[1]] * count),
        "prediction_set": pa.nulls(count, PREDICTED.field("prediction_set").type),
        **{
            name: pa.nulls(count, PREDICTED.field(name).type) if found is None else pa.array(found)
            for name, found in (
                ("needs_review", judged.needs_review),
                ("review_reason", judged.review_reason),
                ("novelty", judged.novelty),
                ("unknown", judged.unknown),
                ("distance", None if judged.novelty is None else distances),
            )
        },
        "top_labels": lists(names.take(pa.array(best.ravel())), [best.shape[1]] * count),
        "top_probabilities": lists(
            pa.array(np.take_along_axis(probabilities, best, axis=1).ravel(), pa.float32()), [best.shape[1]] * count
        ),
        "embedding": pa.nulls(count, PREDICTED.field("embedding").type),
    }
    if sets is not None:
        columns["prediction_set"] = lists(names.take(pa.array(np.nonzero(sets)[1])), sets.sum(1))
    return pa.table(columns, PREDICTED)


_NO_ROWS, _NO_EMBEDDINGS = np.empty(0, np.int64), np.empty((0, 0), np.float32)


def with_embeddings(
    predicted: pa.Table, rows: NDArray[np.int64] = _NO_ROWS, embeddings: NDArray[np.float32] = _NO_EMBEDDINGS
) -> pa.Table:
    """Return the table with embeddings, float32 [M, D], in M of its rows and in no others."""
    column = lists(pa.array(embeddings.ravel(), pa.float32()), [embeddings.shape[1]] * len(rows))
    place = PREDICTED.get_field_index("embedding")
    return predicted.set_column(place, PREDICTED.field(place), spread(column, rows, len(predicted)))


def lists(values: pa.Array, sizes: Sequence[int] | NDArray[np.int64]) -> pa.Array:
    """Return lists of these sizes from consecutive values."""
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)), values)


def spread(values: pa.Array | pa.Table, rows: NDArray[np.int64], count: int) -> pa.Array | pa.Table:
    """Return the values in these rows of `count`; all other rows are null."""
    index = np.full(count, -1, np.int64)
    index[rows] = np.arange(len(rows))
    return values.take(pa.array(index, mask=index < 0))


def score_table(
    files: pa.Table,
    images: pa.Table,
    predicted: pa.Table,
    model: tuple[str, str],
    at: datetime,
    tried: Mapping[str, int] | None = None,
) -> pa.Table:
    """Return the rows of files, in their order.

    files: uri, size, modified. images: the result of reading them. predicted: PREDICTED, null without an image.
    model: name and version. tried: runs that have tried files with a transient reason, by URI.
    """
    count = len(files)
    columns = {
        "image_id": images["image_id"],
        "uri": files["uri"],
        "status": pc.if_else(pc.is_null(images["reason_code"]), "ok", "failed"),
        "reason_code": images["reason_code"],
        "reason": images["reason"],
        **{name: predicted[name] for name in PREDICTED.names},
        **{name: images[name] for name in _READ.names},
        **{name: files[name] for name in _KNOWN_BY.names},
        "tries": _tries(images["reason_code"], files["uri"], tried or {}),
        "model_name": pa.array([model[0]] * count, pa.string()),
        "model_version": pa.array([model[1]] * count, pa.string()),
        "scored_at": pa.array([at] * count, SCHEMA.field("scored_at").type),
    }
    return pa.table({name: columns[name] for name in SCHEMA.names}).cast(SCHEMA)


_REMEDY = (
    "Its rows are lost. Delete it, and run the same `grayline classify-batch` again, which scores their files again."
)


def read_scores(path: UPath, columns: Sequence[str] = ()) -> pa.Table:
    """Return columns of a file of scores, by default all. Codes of older releases' rows come from their texts."""
    with whole(path, _REMEDY), path.open("rb") as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        names = columns or parquet.schema_arrow.names
        if "reason_code" in parquet.schema_arrow.names:
            table = parquet.read(names)
        else:
            table = with_reason_codes(parquet.read([*names, "image_id", "reason"]))
    table = with_added(table)
    return table.select(columns) if columns else table


# Rows of earlier releases lack these columns.
ADDED = ("tries", "review_reason", "novelty", "unknown", "distance")


def with_added(rows: Any) -> Any:
    """Add the columns that rows of earlier releases lack to a table or batch, all null."""
    for name in ADDED:
        if name not in rows.schema.names:
            rows = rows.append_column(name, pa.nulls(len(rows), SCHEMA.field(name).type))
    return rows


def _tries(codes: pa.ChunkedArray, uris: pa.ChunkedArray, tried: Mapping[str, int]) -> pa.Array:
    """Return the runs that have tried each file with a transient reason. tried: of earlier runs, by URI."""
    if codes.null_count == len(codes):
        return pa.nulls(len(codes), pa.int32())
    pairs = zip(codes.to_pylist(), uris.to_pylist(), strict=True)
    return pa.array([min(tried.get(u, 0) + 1, MOST_TRIES) if c in TRIED_AGAIN else None for c, u in pairs], pa.int32())


def with_metadata(table: pa.Table, classes: Sequence[str]) -> pa.Table:
    """Add the class names, in the order of `probabilities`, to the metadata that any Parquet reader finds."""
    return table.replace_schema_metadata({METADATA_KEY: json.dumps({"classes": list(classes)}, ensure_ascii=False)})
