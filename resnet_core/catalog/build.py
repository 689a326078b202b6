"""The catalog: one row for every image ever seen, made by SQL from the source's listing and its readings.

table        one row is                                  made by                       read by
labels       a row of the labels file                    entries.join_labels           entries.join_labels
listed       a file that the source or the labels name   tasks.ingest.scan             entries, corrections
previous     a row of the last night's catalog           entries.load_previous         entries, judge, finish, history
entries      a listed file, with its label (ENTRIES)     entries.make_entries          judge, corrections
assigned     an unread file and its part                 entries.write_entries         entries.write_entries
facts        a file that was read (FACTS)                tasks.ingest.catalog          judge, corrections
corrections  a label given by a person (CORRECTIONS)     corrections.list_corrected    corrections, judge
rows         an entry with its facts, status, reason     judge                         finish, pixel_rows
images       the bytes of a usable image                 judge                         hashes, pixel_rows, finish
memberships  an image in a group                         finish                        finish
decisions    an image tied to others, with its split     splits.decide                 finish
finished     a row of the new catalog (CATALOG)          finish                        queries, history
catalog      a row of a catalog file                     queries.load                  queries

Files with the same bytes are one image. The first is `ok`, an image of an earlier night before new ones, and
the others are `duplicate`. If their labels differ, all are quarantined. Splits of earlier nights stay.
"""

from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from resnet_core.catalog import splits
from resnet_core.catalog.splits import SplitConfig
from resnet_core.images.statistics import HASH_BYTES
from resnet_core.reasons import ReasonCode
from resnet_core.storage import database

CATALOG = pa.schema(
    [
        ("image_id", pa.string()),  # SHA-256 of the file's bytes; null: they could not be read
        ("uri", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("group", pa.string()),
        ("weight", pa.float32()),
        ("soft_label", pa.string()),  # null: the label is sure
        ("attributes", pa.string()),  # other columns of the labels, a JSON object of strings
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("status", pa.string()),
        ("reason_code", pa.string()),  # `resnet_core.reasons.ReasonCode`
        ("reason", pa.string()),  # text for people
        ("near", pa.string()),  # image_id of a near-duplicate
        ("brightness", pa.float32()),  # of the resized pixels, in gray levels
        ("contrast", pa.float32()),
        ("sharpness", pa.float32()),
        ("size", pa.int64()),
        ("modified", pa.string()),
        ("present", pa.bool_()),  # false: no longer in the source
        ("part", pa.string()),  # the file under pixels/ that has its pixels
    ]
)
# Columns that may cut the held-out images into slices, beside the attributes.
SLICED = (
    "brightness", "contrast", "sharpness", "width", "height", "size", "group", "label", "soft_label", "weight", "near",
)  # fmt: skip


def fields(*names: str) -> list[pa.Field]:
    return [CATALOG.field(name) for name in names]


LABELS = ("uri", "label", "split", "group", "weight", "soft_label", "attributes")
# `split` is fixed by the labels or the source, or null; the reason is a fault known before the file is read.
ENTRIES = pa.schema(fields(*LABELS, "size", "modified", "reason_code", "reason", "part"))
_READ = fields("uri", "part", "image_id", "width", "height", "reason_code", "reason")
_STATISTICS = fields("brightness", "contrast", "sharpness")
FACTS = pa.schema([*_READ, *_STATISTICS, ("row", pa.int32()), ("phash", pa.binary(HASH_BYTES))])  # row: of the part

_BLANK = 1e-3  # gray levels; a standard deviation below it is rounding

_JUDGE = f"""
create or replace table rows as
with read as (
    select e.uri, e.label, e.split as fixed, e."group", e.weight, e.soft_label, e.attributes, e.size,
        e.modified, e.part,
        f.row, f.image_id, f.width, f.height, f.phash, f.brightness, f.contrast, f.sharpness,
        coalesce(e.reason_code, f.reason_code, case
            when least(f.width, f.height) < $smallest then '{ReasonCode.TOO_SMALL}'
            when f.contrast < {_BLANK} then '{ReasonCode.BLANK}'
        end) as code,
        case when e.reason_code is not null then e.reason when f.reason_code is not null then f.reason
            when code = '{ReasonCode.TOO_SMALL}'
                then format('too small: {{}} x {{}} pixels, under the limit of {{}}', f.width, f.height, $smallest)
            when code = '{ReasonCode.BLANK}' then format('blank: every pixel is {{}}', round(f.brightness)::int)
        end as reason
    from entries e left join facts f on e.part = f.part and e.uri = f.uri
),
-- Only images with equal bytes are ranked; they are few.
shared as (
    select uri, image_id, label, exists (
        select 1 from previous p where p.uri = read.uri and p.image_id = read.image_id and status = 'ok' and present
    ) as elder
    from read where code is null
        and image_id in (select image_id from read where code is null group by image_id having count(*) > 1)
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
    case when same.other is not null then 'quarantined' when read.code is not null then 'quarantined'
        when ranked.place > 1 then 'duplicate' else 'ok' end as status,
    coalesce(read.code, case when same.other is not null then '{ReasonCode.LABEL_CONFLICT}'
        when ranked.place > 1 then '{ReasonCode.DUPLICATE}' end) as why_code,
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

# Equal bytes in several files become one image. Images that only corrections added are training images: they
# were picked for being hard, and held-out images must be a fair sample.
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
        min(reason) filter (reason_code = '{ReasonCode.NEAR_DUPLICATE}') as excluded,
        bool_or(status in ('ok', 'duplicate') and present) as elder
    from previous group by image_id
) earlier on now.image_id = earlier.image_id
"""

_ENTANGLED = """
select * exclude (phash) from images
where contradiction is not null or place in (select unnest($places::bigint[]))
    or image_id in (select image_id from memberships) or near is not null or image_id in (select near from images)
order by place
"""

_PIXEL_ROWS = """
select part, row from images join rows on images.uri = rows.uri
where place in (select unnest($places::bigint[])) order by place
"""

_MEMBERSHIPS = """
create or replace temp table memberships as
select distinct image_id, "group" from rows where status <> 'quarantined' and "group" is not null
"""

_FINISHED = f"""
create or replace table finished as
with decided as (
    select i.image_id, coalesce(d.split, i.fixed, i.before, case
            when i.chance < $test then 'test' when i.chance < $test + $validation then 'validation' else 'train'
        end) as split, coalesce(d.near, i.near) as near, coalesce(d.excluded, i.excluded) as excluded
    from (
        -- The same as splits.position, for new images that are tied to no other.
        select *, case when fixed is null and before is null
            then ('0x' || substr(sha256($seed || ':' || image_id), 1, 16))::ubigint / 18446744073709551616.0
        end as chance
        from images
    ) i left join decisions d on i.image_id = d.image_id
)
select r.image_id, r.uri, r.label, d.split, r."group", r.weight, r.soft_label, r.attributes, r.width, r.height,
    case when d.excluded is not null then 'duplicate' else r.status end as status,
    case when r.why_code is not null then r.why_code
        when d.excluded is not null then '{ReasonCode.NEAR_DUPLICATE}' end as reason_code,
    coalesce(r.why, d.excluded) as reason, d.near,
    r.brightness, r.contrast, r.sharpness, r.size, r.modified, true as present, r.part
from rows r left join decided d on r.status <> 'quarantined' and r.image_id = d.image_id
union all by name
select p.* replace (false as present) from previous p
where image_id is not null
    and not exists (select 1 from rows where rows.uri = p.uri and rows.image_id = p.image_id)
"""

_ORDERED = "select * from finished order by present desc, part nulls last, uri, image_id"


def judge(db: duckdb.DuckDBPyConnection, smallest: int) -> None:
    """Make `rows` and `images`. smallest: the least side, in pixels, of an image that is not quarantined."""
    db.execute(_JUDGE, {"smallest": smallest})
    db.execute(_IMAGES)


def hashes(db: duckdb.DuckDBPyConnection) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the perceptual hash of every image, uint8 [N, HASH_BYTES], and which are new, bool [N]."""
    table = db.sql("select phash, not elder as new from images order by place").to_arrow_table()
    packed = b"".join(table["phash"].to_pylist())
    return (
        np.frombuffer(packed, dtype=np.uint8).reshape(len(table), HASH_BYTES),
        table["new"].to_numpy(zero_copy_only=False).astype(bool),
    )


def pixel_rows(db: duckdb.DuckDBPyConnection, places: NDArray[np.int64]) -> pa.Table:
    """Return part and row of the pixels of some `images`, in the order of their places, which must ascend."""
    return db.sql(_PIXEL_ROWS, params={"places": places.tolist()}).to_arrow_table()


def finish(db: duckdb.DuckDBPyConnection, config: SplitConfig, pairs: NDArray[np.int64]) -> None:
    """Make `finished`. pairs: int64 [M, 2], places in `images` of near-duplicates.

    Raises UserError if the labels put one group into two splits.
    """
    db.execute(_MEMBERSHIPS)
    places = np.unique(pairs)
    images = db.sql(_ENTANGLED, params={"places": places.tolist()}).to_arrow_table()
    groups = db.sql("select * from memberships order by all").to_arrow_table()
    row = np.searchsorted(images["place"].to_numpy(), pairs)
    db.register("decisions", splits.decide(images, groups, row, config))
    db.execute(_FINISHED, {"seed": str(config.seed), "test": config.test, "validation": config.validation})
    db.unregister("decisions")


def finished_rows(db: duckdb.DuckDBPyConnection) -> Iterator[pa.Table]:
    """Yield `finished` in the order of the catalog file."""
    return database.pieces(db, _ORDERED, database.BATCH_ROWS)
