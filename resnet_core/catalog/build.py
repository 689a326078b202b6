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
waiting      a class that is set aside, and why          wait, take_out                make_images, finish
images       the bytes of a usable image                 make_images                   hashes, pixel_rows, placing
placed       an image with its unit and split            placing                       finish, repair, queries
look_alikes  a held-out image like a training image      placing                       finish
finished     a row of the new catalog (CATALOG)          finish                        queries, history
catalog      a row of a catalog file                     queries.load                  queries

Files with the same bytes are one image. The first is `ok`, an image of an earlier night before new ones, and
the others are `duplicate`. If their labels differ, all are quarantined. Splits of earlier nights stay.
"""

from collections.abc import Iterator, Mapping, Sequence

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from resnet_core.images.statistics import HASH_BYTES
from resnet_core.reasons import MOST_TRIES, TRIED_AGAIN, ReasonCode
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
        ("tries", pa.int32()),  # nights that have tried a file with a transient reason; null: no such file
        ("near", pa.string()),  # image_id of the same picture
        ("look_alike", pa.string()),  # of a held-out image: image_id of the training image of its label most like it
        ("residual", pa.float32()),  # how far these two differ, as a share of variance
        ("crowded", pa.bool_()),  # looks like others of its label, but like too many to be tied to any
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

_WAITING = pa.schema([("label", pa.string()), ("why", pa.string())])

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
    case when read.code = '{ReasonCode.LABEL_MISSING}' then 'unlabelled'
        when read.code = '{ReasonCode.STILL_WRITTEN}' then 'waiting'
        when same.other is not null or read.code is not null then 'quarantined'
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

# Equal bytes in several files become one image, with the group of the file that is `ok`. If the labels put them into
# several splits, an earlier night decides, or else the held-out side. Images that only corrections added are training
# images: they were picked for being hard, and held-out images must be a fair sample.
_IMAGES = """
create or replace table images as
select row_number() over (order by now.image_id) - 1 as place, now.* exclude (added, sides),
    case when len(sides) > 1 and list_contains(sides, before) then before
        when len(sides) > 0 then list_min(sides) when added and before is null then 'train' end as fixed,
    len(sides) > 1 as contradiction, before, near, look_alike, residual, coalesce(crowded, false) as crowded,
    coalesce(elder, false) as elder
from (
    select image_id, any_value(label) as label, list(distinct fixed) filter (fixed is not null) as sides,
        coalesce(any_value("group") filter (status = 'ok'), min("group")) as "group",
        any_value(phash) as phash, min(uri) as uri, bool_and(corrected) and count("group") = 0 as added
    from (select *, uri in (select uri from corrections where added) as corrected from rows)
    where status in ('ok', 'duplicate') and label not in (select label from waiting) group by image_id
) now left join (
    select image_id, min(split) filter (not $again) as before, min(near) filter (present and not $search) as near,
        min(look_alike) filter (present and not $search) as look_alike,
        min(residual) filter (present and not $search) as residual,
        bool_or(crowded) filter (present and not $search) as crowded,
        bool_or(status in ('ok', 'duplicate') and present and not $search) as elder
    from previous group by image_id
) earlier on now.image_id = earlier.image_id
"""
_HASHES = """
select phash, not elder or coalesce(look_alike not in (select image_id from images), false) as new
from images order by place
"""

_PIXEL_ROWS = """
select part, row from images join rows on images.uri = rows.uri
where place in (select unnest($places::bigint[])) order by place
"""

_FINISHED = f"""
create or replace table finished as
with decided as (
    select p.image_id, p.split, coalesce(d.near, i.near) as near, a.look_alike, a.residual,
        coalesce(d.crowded, i.crowded) as crowded
    from placed p join images i on p.image_id = i.image_id left join decisions d on p.image_id = d.image_id
        left join look_alikes a on p.image_id = a.image_id
),
-- A class that waits keeps the splits that earlier nights gave its images.
kept as (select image_id, min(split) as split from previous where not $again group by image_id)
select r.image_id, r.uri, r.label, coalesce(d.split, case when r.status <> 'quarantined' then kept.split end) as split,
    r."group", r.weight, r.soft_label, r.attributes, r.width, r.height,
    case when r.status = 'ok' and w.label is not null then 'waiting' else r.status end as status,
    case when r.status = 'ok' and w.label is not null then '{ReasonCode.CLASS_TOO_SMALL}' else r.why_code end
        as reason_code,
    case when r.status = 'ok' and w.label is not null then w.why else r.why end as reason,
    case when r.why_code in ({", ".join(f"'{code}'" for code in sorted(TRIED_AGAIN))})
        then least(coalesce(tried.tries, 0) + 1, {MOST_TRIES})::int end as tries,
    d.near, d.look_alike, d.residual, d.crowded,
    r.brightness, r.contrast, r.sharpness, r.size, r.modified, true as present, r.part
from rows r left join waiting w on r.label = w.label
    left join decided d on r.status <> 'quarantined' and r.image_id = d.image_id
    left join kept on r.image_id = kept.image_id
    left join (
        select uri, size, modified, max(tries) as tries from previous where tries is not null and present group by all
    ) tried on r.why_code is not null and tried.uri = r.uri and tried.size = r.size and tried.modified = r.modified
union all by name
select p.* replace (false as present) from previous p
where image_id is not null
    and not exists (select 1 from rows where rows.uri = p.uri and rows.image_id = p.image_id)
"""

_WAIT_FOR = """
update rows set status = 'waiting', why_code = $code, why = $why
where status = 'ok' and soft_label in (select unnest($texts::varchar[]))
"""
_ORDERED = "select * from finished order by present desc, part nulls last, uri, image_id"


def judge(db: duckdb.DuckDBPyConnection, smallest: int) -> None:
    """Make `rows`. smallest: the least side, in pixels, of an image that is not quarantined."""
    db.execute(_JUDGE, {"smallest": smallest})
    database.create(db, "waiting", _WAITING)


def wait(db: duckdb.DuckDBPyConnection, reasons: Mapping[str, str]) -> None:
    """Set classes aside. reasons: why, by label."""
    if reasons:
        db.executemany("insert into waiting values ($1, $2)", sorted(reasons.items()))


def wait_for(db: duckdb.DuckDBPyConnection, soft_labels: Sequence[str], why: str) -> int:
    """Set images with one of these soft labels aside. Returns their number."""
    values = {"code": str(ReasonCode.CLASS_TOO_SMALL), "why": why, "texts": list(soft_labels)}
    return int(db.execute(_WAIT_FOR, values).fetchall()[0][0])


def take_out(db: duckdb.DuckDBPyConnection, reasons: Mapping[str, str]) -> None:
    """Set classes aside that are in `placed` already."""
    wait(db, reasons)
    db.execute("delete from placed where label in (select label from waiting)")


def make_images(db: duckdb.DuckDBPyConnection, *, again: bool, search: bool) -> None:
    """Make `images`, the usable ones, without classes that wait.

    again: forget the splits of earlier nights. search: look for look-alikes among all images, not of new ones alone.
    """
    db.execute(_IMAGES, {"again": again, "search": again or search})


def hashes(db: duckdb.DuckDBPyConnection) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the perceptual hash of every image, uint8 [N, HASH_BYTES], and which are to be compared, bool [N].

    These are the new ones, and those whose look-alike is gone.
    """
    table = db.sql(_HASHES).to_arrow_table()
    packed = b"".join(table["phash"].to_pylist())
    return (
        np.frombuffer(packed, dtype=np.uint8).reshape(len(table), HASH_BYTES),
        table["new"].to_numpy(zero_copy_only=False).astype(bool),
    )


def pixel_rows(db: duckdb.DuckDBPyConnection, places: NDArray[np.int64]) -> pa.Table:
    """Return part and row of the pixels of some `images`, in the order of their places, which must ascend."""
    return db.sql(_PIXEL_ROWS, params={"places": places.tolist()}).to_arrow_table()


def count_moved(db: duckdb.DuckDBPyConnection) -> int:
    """Return the number of `images` that earlier nights have placed on another side than the source does."""
    return database.count(db, "select count(*) from images where fixed <> before")


def finish(db: duckdb.DuckDBPyConnection, *, again: bool) -> None:
    """Make `finished`. again: as in `make_images`."""
    db.execute(_FINISHED, {"again": again})


def finished_rows(db: duckdb.DuckDBPyConnection) -> Iterator[pa.Table]:
    """Yield `finished` in the order of the catalog file."""
    return database.pieces(db, _ORDERED, database.BATCH_ROWS)
