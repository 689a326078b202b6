"""The queue of some batches: a random part, which tells the accuracy, and the images worth most to a training.

The random part is drawn first, from all scored images; equal bytes are one image. The draw goes by the hash of image
and version: the same batches give the same queue, and another version another draw. The rest is chosen by
`resnet_core.explain.queue` among images that the catalog has no label for. Drift is what `_drift.json` says of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from duckdb import DuckDBPyConnection
from numpy.typing import NDArray
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.explain.queue import NEAR, Pool, choose, novel
from resnet_core.inference.scores import Picks, take
from resnet_core.storage.database import count, database, file_name
from resnet_core.storage.digest import digest_of
from resnet_core.storage.files import read_json
from tasks.report.gallery_page import MOST, ScoredBatch, find_batch, readable
from tasks.store import DRIFT, Store

_POOL, _MOST_POOL = 20, 20_000  # candidates: so many for each image of the queue, and at most
_NEAR_BY_PROBABILITIES = 0.9999  # other images of a class that is sure have nearly the same probabilities
# Rows of earlier releases lack some columns. An image of several files is one.
_SCORED = """
create or replace temp table scored as
select image_id, uri, coalesce(unknown, false) as unknown, coalesce(distance, 0) as distance, novelty,
    coalesce(top_probabilities[1] - coalesce(top_probabilities[2], 0), 1) as margin
from (
    select null::boolean as unknown, null::float as distance, null::float as novelty, null::float[] as top_probabilities
    where false
    union all by name from read_parquet($files, union_by_name = true)
) where status = 'ok'
qualify row_number() over (partition by image_id order by uri) = 1
"""
_RANDOM = "select uri from scored order by md5(image_id || $salt) limit $most"
_OTHERS = """
select uri from scored where unknown = $unknown and uri not in (select uri from drawn)
    and image_id not in (select image_id from known)
order by {order}, image_id limit $most
"""
_TOLD = """
create temp table told as
select image_id, min(place) as place from read_parquet($files, union_by_name = true) join outermost using (uri)
group by image_id
"""
_DRIFTED = """
select uri from scored join told using (image_id) where uri not in (select uri from drawn)
    and image_id not in (select image_id from known)
order by place, uri
"""
_ROWS = """
select s.uri, s.unknown, s.distance, r.probabilities, r.embedding
from scored s join (
    select null::float[] as embedding where false union all by name from read_parquet($files, union_by_name = true)
) r using (uri)
where uri in (select unnest($uris::varchar[])) order by uri
"""


@dataclass(frozen=True)
class Queue:
    """The chosen images as `picks`, of `images` scored ones; `why` says for each URI why it is there.

    labelled: number of images that the catalog has a label for. by_probabilities: the rows have no embeddings, and
    images are told apart by their probabilities.
    """

    batch: ScoredBatch
    picks: Picks
    why: dict[str, str]
    images: int
    labelled: int
    by_probabilities: bool

    @property
    def inclusion(self) -> float:
        """Return the probability with which an image came into the random part."""
        return min(1.0, self.picks.why.get("random", 0) / max(1, self.images))


def find_batches(places: Sequence[str], store: Store) -> list[ScoredBatch]:
    """Return finished batches. Raises UserError unless all are by one version."""
    found = {place: find_batch(place, store) for place in places}
    first = found[places[0]]
    for place, batch in found.items():
        if (batch.scores.model, batch.classes) != (first.scores.model, first.classes):
            raise UserError(
                f"BATCH: {places[0]} is by {first.scores.model}, {place} by {batch.scores.model}. Review the batches "
                "of each version alone: their scores cannot be compared."
            )
    return list(found.values())


def check_sizes(budget: int, random: float) -> None:
    """Raises UserError for numbers out of range."""
    if not 1 <= budget <= MOST:
        raise UserError(f"--budget: {budget} is not from 1 to {MOST:,}, the most that a page shows.")
    if not 0 <= random <= 1:
        raise UserError(f"--random: {random:g} is not a share from 0 to 1, such as 0.2.")


def make_queue(batches: Sequence[ScoredBatch], budget: int, random: float, store: Store) -> Queue:
    """Choose the images. Raises UserError if none was scored."""
    first = batches[0].scores
    salt = digest_of(str(first.model), first.model.files)
    with database() as db:
        parts = [part for batch in batches for part in readable(db, batch.scores.parts)]
        db.execute(_SCORED, {"files": [file_name(part) for part in parts]})
        images = count(db, "select count(*) from scored")
        if not images:
            raise UserError(f"BATCH: none of the files of {first.batch} was scored. `grayline gallery` says why.")
        labelled = _load_known(db, store.catalog(first.model.name))
        db.execute(f"create temp table drawn as {_RANDOM}", {"salt": salt, "most": round(budget * random)})
        drawn = [uri for (uri,) in db.sql("select uri from drawn order by uri").fetchall()]
        _load_told(db, batches, parts)
        rows, by_probabilities = _candidates(db, parts, drawn, budget)
        uris = rows["uri"].to_pylist()
        row_of = {uri: row for row, uri in enumerate(uris)}
        drifted = tuple(row_of[uri] for (uri,) in db.execute(_DRIFTED).fetchall())
        pool = replace(_pool(rows, drawn, by_probabilities), drifted=drifted)
        seed = int(digest_of(salt, sorted(uris))[:8], 16)
        chosen = {uris[row]: why for row, why in choose(pool, budget - len(drawn), seed, _novel(db))}
        why = {**chosen, **dict.fromkeys(drawn, "random")}
        return Queue(_as_one(batches), take(db, parts, why), why, images, labelled, by_probabilities)


def _load_known(db: DuckDBPyConnection, catalog: UPath) -> int:
    """Make `known`: images that have a label in the data set's catalog. Returns how many were scored."""
    table = pa.table({"image_id": pa.array([], pa.string())})
    if catalog.exists():
        with catalog.open("rb") as file:
            labelled = pc.field("present") & pc.field("label").is_valid() & pc.field("image_id").is_valid()
            table = pq.read_table(file, columns=["image_id"], filters=labelled)
    db.register("catalogued", table)
    db.execute("create temp table known as select distinct image_id from catalogued join scored using (image_id)")
    db.unregister("catalogued")
    return count(db, "select count(*) from known")


def _load_told(db: DuckDBPyConnection, batches: Sequence[ScoredBatch], parts: Sequence[str]) -> None:
    """Make `told`: the images that the batches' drift is told by, with their places in its lists."""
    found: list[tuple[str, int]] = []
    for batch in batches:
        file = batch.scores.output / DRIFT
        measures = read_json(file, "Score the batch again.").get("outermost", {}) if file.exists() else {}
        found += [(each["uri"], place) for images in measures.values() for place, each in enumerate(images)]
    uris, places = pa.array([uri for uri, _ in found], pa.string()), pa.array([at for _, at in found], pa.int32())
    db.register("outermost", pa.table({"uri": uris, "place": places}))
    db.execute(_TOLD, {"files": [file_name(part) for part in parts]})
    db.unregister("outermost")


def _novel(db: DuckDBPyConnection) -> int:
    """Return the number of unknown images that are not so by chance."""
    p_values = db.sql("select novelty from scored where unknown and novelty is not null").to_arrow_table()["novelty"]
    return novel(p_values.to_numpy().astype(np.float32), count(db, "select count(novelty) from scored"))


def _candidates(
    db: DuckDBPyConnection, parts: Sequence[str], drawn: Sequence[str], budget: int
) -> tuple[pa.Table, bool]:
    """Return rows of the drawn images and of candidates, and whether they have to do without embeddings."""
    uris, most = list(drawn), min(_MOST_POOL, max(1000, _POOL * budget))
    for unknown, order in ((True, "distance desc"), (False, "margin")):
        found = db.execute(_OTHERS.format(order=order), {"unknown": unknown, "most": most}).fetchall()
        uris += [uri for (uri,) in found]
    uris += [uri for (uri,) in db.execute(_DRIFTED).fetchall()]
    rows = db.sql(_ROWS, params={"files": [file_name(part) for part in parts], "uris": uris}).to_arrow_table()
    return rows, rows["embedding"].null_count > 0


def _pool(rows: pa.Table, drawn: Sequence[str], by_probabilities: bool) -> Pool:
    """Return what `choose` asks for; square roots of probabilities stand for the features of rows without any."""
    probabilities = _matrix(rows["probabilities"])
    space = np.sqrt(probabilities) if by_probabilities else _matrix(rows["embedding"])
    taken = pc.is_in(rows["uri"], value_set=pa.array(drawn, pa.string())).to_numpy().astype(bool)
    unknown, distances = (rows[name].to_numpy() for name in ("unknown", "distance"))
    near = _NEAR_BY_PROBABILITIES if by_probabilities else NEAR
    return Pool(probabilities, space, unknown.astype(bool) & ~taken, distances.astype(np.float32), taken, near)


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Return lists of equal length as float32 [N, D]."""
    values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return values.reshape(len(column), -1 if len(column) else 0)


def _as_one(batches: Sequence[ScoredBatch]) -> ScoredBatch:
    """Return batches as one, for the page."""
    scores = [batch.scores for batch in batches]

    def total(name: str) -> int | None:
        counts = [getattr(each, name) for each in scores]
        return None if None in counts else sum(counts)

    whole = replace(
        scores[0], source=", ".join(dict.fromkeys(each.source for each in scores)), review=total("review"),
        parts=tuple(part for each in scores for part in each.parts), files=total("files") or 0,
        scored=total("scored") or 0, unknown=total("unknown"), confidential=any(each.confidential for each in scores),
    )  # fmt: skip
    return replace(batches[0], scores=whole, key=digest_of(*(each.key for each in batches)), page="review")
