"""Placing: the split of every image, and the training image that a held-out one looks like.

table        one row is                                  made by          read by
decisions    an image that is tied to others             place            place
placed       an image with its unit and its split        place            repair, build.finish, queries
look_alikes  a held-out image that looks like a          measure          build.finish
             training image of the same label
"""

import numpy as np
import pyarrow as pa
from duckdb import DuckDBPyConnection

from resnet_core.catalog import splits, ties
from resnet_core.catalog.repair import repair
from resnet_core.catalog.splits import SplitConfig
from resnet_core.catalog.ties import Pairs

_ENTANGLED = """
select place, image_id, uri, label, "group", fixed, before, near, crowded from images
where place in (select unnest($places::bigint[])) or "group" is not null or near is not null
    or image_id in (select near from images)
order by place
"""
# The hash is that of splits.position.
_PLACED = """
create or replace table placed as
select image_id, place, label, unit, grouped, free, chance, fixed, coalesce(decided, fixed, before, case
        when chance < $test then 'test' when chance < $test + $validation then 'validation' else 'train'
    end) as split
from (
    select *, case when free
        then ('0x' || substr(sha256($seed || ':' || unit), 1, 16))::ubigint / 18446744073709551616.0
    end as chance
    from (
        select i.image_id, place, label, i."group" is not null as grouped, fixed, before, d.split as decided,
            coalesce(d.key, i.image_id) as unit, coalesce(d.free, fixed is null and before is null) as free
        from images i left join decisions d on i.image_id = d.image_id
    )
)
"""
_LOOK_ALIKES = """
create or replace table look_alikes as
select image_id, best.image as look_alike, best.residual from (
    select a.image_id, min({'residual': pair.residual, 'image': b.image_id}) as best
    from (
        select a.image_id as one, b.image_id as other, pairs.residual from pairs
        join images a on pairs.left = a.place join images b on pairs.right = b.place
        union all
        select b.image_id, a.image_id, pairs.residual from pairs
        join images a on pairs.left = a.place join images b on pairs.right = b.place
        union all
        select image_id, look_alike, residual from images where look_alike is not null
    ) pair
    join placed a on pair.one = a.image_id join placed b on pair.other = b.image_id
    where a.split in ('test', 'validation') and b.split = 'train' and a.label = b.label
    group by a.image_id
)
"""


def place(
    db: DuckDBPyConnection, config: SplitConfig, seed: str, pairs: Pairs, most: float, around: Pairs | None = None
) -> None:
    """Make `decisions` and `placed`. pairs: of places in `images`; most: the largest residual of look-alikes.

    around: as in `ties.find`. Raises UserError if the labels put one group into two splits.
    """
    around = around or pairs
    places = np.unique(np.r_[around.left, around.right])
    images = db.sql(_ENTANGLED, params={"places": places.tolist()}).to_arrow_table()
    row = images["place"].to_numpy()

    def by_row(of: Pairs) -> Pairs:
        return Pairs(np.searchsorted(row, of.left), np.searchsorted(row, of.right), of.residual)

    _create(db, "decisions", splits.decide(images, ties.find(images, by_row(pairs), most, by_row(around))))
    db.execute(_PLACED, {"seed": seed, "test": config.test, "validation": config.validation})
    repair(db, config)


def measure(db: DuckDBPyConnection, pairs: Pairs, most: float) -> None:
    """Make `look_alikes`, of this night's pairs and of those that earlier nights have found."""
    close = pairs.where(pairs.residual <= most)
    table = pa.table({"left": close.left, "right": close.right, "residual": close.residual})
    db.register("pairs", table)
    db.execute(_LOOK_ALIKES)
    db.unregister("pairs")


def _create(db: DuckDBPyConnection, name: str, table: pa.Table) -> None:
    db.register("incoming", table)
    db.execute(f"create or replace temp table {name} as select * from incoming")
    db.unregister("incoming")
