"""Which rows of a batch a person should look at, of however many there are."""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

# Of the rows that are picked, so many at most are bad files, and so many drawn from each label whatever its confidence:
# they show what the model is sure of and wrong about.
FAILED, SAMPLED = 0.1, 0.2
PICK = pa.schema(
    [
        ("uri", pa.string()),
        ("image_id", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("label", pa.string()),
        ("confidence", pa.float32()),
        ("needs_review", pa.bool_()),
        ("top_labels", pa.list_(pa.string())),
        ("top_probabilities", pa.list_(pa.float32())),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
WANTED = "status = 'ok' and (len($labels) = 0 or label in (select unnest($labels::varchar[])))"
COUNT = f"""
select count(*) filter ({WANTED}), count(distinct label) filter ({WANTED}),
    count(*) filter (status <> 'ok' and len($labels) = 0), count(*) filter ({WANTED} and needs_review)
from scores
"""
# Both need memory for what they give, not for what they look at.
DRAWN = """
select unnest(arg_min(uri, hash(uri), {each})) as uri, 'drawn' as why from scores where {wanted} group by label
limit {most}
"""
WORST = """
select uri, case when needs_review then 'review' else 'unsure' end as why from scores
where {wanted} and uri not in (select uri from picked)
order by coalesce(needs_review, false) desc, confidence, uri limit {most}
"""
BAD = "select uri, 'failed' as why from scores where status <> 'ok' order by hash(uri) limit {most}"
ROWS = f"""
select {", ".join(PICK.names)} from scores join picked using (uri)
order by status <> 'ok', coalesce(needs_review, false) desc, confidence, uri
"""


@dataclass(frozen=True)
class Picks:
    """`rows` (PICK), what needs a person first, bad files last, of `files`. `review` of the files need one.
    `why` counts the rows: review, unsure, drawn, failed."""

    rows: pa.Table
    files: int
    review: int
    why: dict[str, int]


def pick(db: duckdb.DuckDBPyConnection, files: Sequence[str], limit: int, labels: Sequence[str] = ()) -> Picks:
    """At most `limit` rows of the Parquet files of a batch; of these labels, if any are given, and then no bad files.
    The images that need review come first, then those of which the model is least sure; some are drawn from each
    label; some are bad files."""
    there = db.execute("select * from read_parquet($files) limit 0", {"files": list(files)}).description or []
    known = {column[0] for column in there}
    columns = ", ".join(name if name in known else f"null as {name}" for name in PICK.names)
    listed = ", ".join(f"'{file.replace(chr(39), 2 * chr(39))}'" for file in files)
    db.execute(f"create or replace temp view scores as select {columns} from read_parquet([{listed}])")
    counts = db.execute(COUNT, {"labels": list(labels)}).fetchall()[0]
    good, classes, bad, review = map(int, counts)
    failed = min(bad, max(int(limit * FAILED), limit - good))
    each = max(1, int(limit * SAMPLED) // max(1, classes))
    drawn = min(int(limit * SAMPLED) if limit < good + failed else 0, classes * each)
    db.execute("create or replace temp table picked (uri varchar, why varchar)")
    for query, most in ((DRAWN, drawn), (WORST, limit - failed - drawn)):
        text = query.format(each=each, most=most, wanted=WANTED)
        db.execute(f"insert into picked {text}", {"labels": list(labels)})
    db.execute(f"insert into picked {BAD.format(most=failed)}")
    why = dict(db.sql("select why, count(*) from picked group by why").fetchall())
    return Picks(db.sql(ROWS).to_arrow_table().cast(PICK), good + bad, review, why)
