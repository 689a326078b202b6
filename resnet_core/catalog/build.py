"""The catalog: what is known of every source image ever seen, and the rules that decide on each.

The rules are SQL over tables in a database: `entries`, the files as the source has them now (ENTRIES);
`facts`, what reading them told (FACTS); `old`, the catalog of the night before (CATALOG); `corrections`, what
people have said of some images (`resnet_core.catalog.corrections`). `judge` makes `rows` of them, `split_rows` gives
each image its side, and `finished` is the new catalog.

Of the same bytes one image is `ok`, an elder if there is one, and the rest `duplicate`; under
different labels all are quarantined, for nobody knows which is right. What an earlier night decided
on an image's split stays.
"""

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from resnet_core.catalog import splits
from resnet_core.catalog.splits import EXCLUDED, SplitConfig
from resnet_core.images.statistics import HASH_BYTES

CATALOG = pa.schema(
    [
        ("image_id", pa.string()),  # SHA-256 of the file's bytes; null: they could not be read
        ("uri", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("weight", pa.float32()),
        ("soft_label", pa.string()),  # null: the label is sure
        ("attributes", pa.string()),  # what else the labels say of it, a JSON object of strings
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("near", pa.string()),  # image_id of an image that looks the same
        ("brightness", pa.float32()),  # of the resized pixels, in gray levels
        ("contrast", pa.float32()),
        ("sharpness", pa.float32()),
        ("size", pa.int64()),
        ("modified", pa.string()),
        ("present", pa.bool_()),  # false: an earlier night saw it, the source has it no more
        ("part", pa.string()),  # the file under pixels/ that has its pixels
    ]
)
# By which the held-out images may be broken down, beside their attributes.
SLICED = (
    "brightness", "contrast", "sharpness", "width", "height", "size", "group", "label", "soft_label", "weight", "near",
)  # fmt: skip
ENTRIES = pa.schema(
    [
        ("uri", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),  # as the labels or the source fix it
        ("group", pa.string()),
        ("weight", pa.float32()),
        ("soft_label", pa.string()),
        ("attributes", pa.string()),
        ("size", pa.int64()),
        ("modified", pa.string()),
        ("reason", pa.string()),  # why it cannot be an image, whatever it holds
        ("part", pa.string()),  # null where there is a reason
    ]
)
FACTS = pa.schema(
    [
        ("uri", pa.string()),
        ("part", pa.string()),
        ("row", pa.int32()),  # in the part
        ("image_id", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("reason", pa.string()),
        ("phash", pa.binary(HASH_BYTES)),
        ("brightness", pa.float32()),
        ("contrast", pa.float32()),
        ("sharpness", pa.float32()),
    ]
)

# Below it all gray levels are the same, but for the rounding of a mean.
_BLANK = 1e-3

_JUDGE = f"""
create or replace table rows as
with read as (
    select e.uri, e.label, e.split as fixed, e."group", e.weight, e.soft_label, e.attributes, e.size,
        e.modified, e.part,
        f.row, f.image_id, f.width, f.height, f.phash, f.brightness, f.contrast, f.sharpness,
        coalesce(e.reason, f.reason, case
            when least(f.width, f.height) < $smallest
                then format('too small: {{}} x {{}} pixels, under the limit of {{}}', f.width, f.height, $smallest)
            when f.contrast < {_BLANK} then format('blank: every pixel is {{}}', round(f.brightness)::int)
        end) as reason
    from entries e left join facts f on e.part = f.part and e.uri = f.uri
),
-- Few are: most images need no rank.
shared as (
    select uri, image_id, label, exists (
        select 1 from old where old.uri = read.uri and old.image_id = read.image_id and status = 'ok' and present
    ) as elder
    from read where reason is null
        and image_id in (select image_id from read where reason is null group by image_id having count(*) > 1)
),
ranked as (
    select uri, image_id, label, row_number() over (partition by image_id order by not elder, uri) as place from shared
),
same as (
    select image_id, arg_min(uri, place) as first, arg_min(label, place) as label,
        arg_min(uri, place) filter (label <> head) as second, arg_min(label, place) filter (label <> head) as other
    from (select *, first_value(label) over (partition by image_id order by place) as head from ranked)
    group by image_id
)
select read.*,
    case when same.other is not null then 'quarantined' when read.reason is not null then 'quarantined'
        when ranked.place > 1 then 'duplicate' else 'ok' end as status,
    coalesce(read.reason, case
        when same.other is not null and read.label = same.label
            then format('label conflict: the same bytes are ''{{}}'' in {{}}', same.other, same.second)
        when same.other is not null
            then format('label conflict: the same bytes are ''{{}}'' in {{}}', same.label, same.first)
        when ranked.place > 1 then 'same bytes as ' || same.first
    end) as why
from read
left join ranked on read.uri = ranked.uri
left join same on ranked.image_id = same.image_id
"""

# Of the same bytes in several places: one image, with all that the labels, an earlier night or, where
# nothing else does, its own content have decided on it. What corrections alone have brought is learned from: it was
# picked for being hard, and held-out images have to be a fair sample.
_IMAGES = f"""
create or replace table images as
select row_number() over (order by now.image_id) - 1 as place,
    now.* exclude (added) replace (coalesce(fixed, case when added and before is null then 'train' end) as fixed),
    before, near, excluded, coalesce(elder, false) as elder
from (
    select image_id, min(fixed) as fixed, nullif(max(fixed), min(fixed)) as contradiction,
        any_value(phash) as phash, min(uri) as uri, bool_and(corrected) and count("group") = 0 as added
    from (select *, uri in (select uri from corrections where added) as corrected from rows)
    where status in ('ok', 'duplicate') group by image_id
) now left join (
    select image_id, min(split) as before, min(near) as near,
        min(reason) filter (reason like '{EXCLUDED}%') as excluded,
        bool_or(status in ('ok', 'duplicate') and present) as elder
    from old group by image_id
) old on now.image_id = old.image_id
"""

_ENTANGLED = """
select * exclude (phash) from images
where contradiction is not null or place in (select unnest($places::bigint[]))
    or image_id in (select image_id from memberships) or near is not null or image_id in (select near from images)
order by place
"""

_MEMBERSHIPS = """
create or replace temp table memberships as
select distinct image_id, "group" from rows where status <> 'quarantined' and "group" is not null
"""

FINISHED = """
create or replace table finished as
with decided as (
    select i.image_id, coalesce(d.split, i.fixed, i.before, case
            when i.chance < $test then 'test' when i.chance < $test + $validation then 'validation' else 'train'
        end) as split, coalesce(d.near, i.near) as near, coalesce(d.excluded, i.excluded) as excluded
    from (
        -- What splits.position says, for new images that nothing ties to others.
        select *, case when fixed is null and before is null
            then ('0x' || substr(sha256($seed || ':' || image_id), 1, 16))::ubigint / 18446744073709551616.0
        end as chance
        from images
    ) i left join decisions d on i.image_id = d.image_id
)
select r.image_id, r.uri, r.label, d.split, r."group", r.weight, r.soft_label, r.attributes, r.width, r.height,
    case when d.excluded is not null then 'duplicate' else r.status end as status,
    coalesce(r.why, d.excluded) as reason, d.near,
    r.brightness, r.contrast, r.sharpness, r.size, r.modified, true as present, r.part
from rows r left join decided d on r.status <> 'quarantined' and r.image_id = d.image_id
union all by name
select old.* replace (false as present) from old
where image_id is not null
    and not exists (select 1 from rows where rows.uri = old.uri and rows.image_id = old.image_id)
"""

ORDERED = "select * from finished order by present desc, part nulls last, uri, image_id"


def judge(db: duckdb.DuckDBPyConnection, smallest: int) -> None:
    """Make `rows`: the entries with their facts, status and reason. smallest: the shorter side, in
    pixels, under which an image is quarantined."""
    db.execute(_JUDGE, {"smallest": smallest})
    db.execute(_IMAGES)


def hashes(db: duckdb.DuckDBPyConnection) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Of every image that may be learned from, by place: uint8 [N, HASH_BYTES], and whether it is new."""
    table = db.sql("select phash, not elder as new from images order by place").to_arrow_table()
    packed = b"".join(table["phash"].to_pylist())
    return (
        np.frombuffer(packed, dtype=np.uint8).reshape(len(table), HASH_BYTES),
        table["new"].to_numpy(zero_copy_only=False).astype(bool),
    )


def split_rows(db: duckdb.DuckDBPyConnection, config: SplitConfig, pairs: NDArray[np.int64]) -> None:
    """Make `finished`, the new catalog. pairs: int64 [M, 2], places of images that look the same.
    Raises UserError when labels fix one group to two splits."""
    db.execute(_MEMBERSHIPS)
    places = np.unique(pairs)
    images = db.sql(_ENTANGLED, params={"places": places.tolist()}).to_arrow_table()
    groups = db.sql("select * from memberships order by all").to_arrow_table()
    row = np.searchsorted(images["place"].to_numpy(), pairs)
    db.register("decisions", splits.decide(images, groups, row, config))
    db.execute(FINISHED, {"seed": str(config.seed), "test": config.test, "validation": config.validation})
    db.unregister("decisions")
