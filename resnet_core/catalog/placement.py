"""Placement: what a night has put where, and how far the held-out images are new to the training."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from duckdb import DuckDBPyConnection

_CLASSES = """
select label, count(*) filter (split = 'train'), count(*) filter (split = 'validation'),
    count(*) filter (split = 'test'), 0, count(distinct unit), bool_and(fixed is not null), bool_or(free)
from placed group by label
union all
select label, 0, 0, 0, count(*), 0, false, false from finished where present and status = 'waiting' group by label
order by label
"""
_GROUPS = """
select count(distinct unit) filter (split = 'train'), count(distinct unit) filter (split = 'validation'),
    count(distinct unit) filter (split = 'test'), count(distinct unit) from placed having bool_or(grouped)
"""
_LARGEST = """
select unit, any_value(grouped), count(*) from placed group by unit order by count(*) desc, unit limit 1
"""
_TIED = """
select count(*), count(distinct a.near) from finished a join finished b on a.near = b.image_id
where a.present and a.status = 'ok' and b.present and b.status = 'ok' and a.label = b.label
    and a."group" is null and b."group" is null
"""
_SCENE = "select label, count(*) from finished where present and status = 'ok' and crowded group by label"
_LEAKS = """
select count(look_alike) from finished where present and status = 'ok' and split = 'test'
"""
_COPIES = """
select count(*) from look_alikes l join placed a on l.image_id = a.image_id join placed b on l.look_alike = b.image_id
where a.fixed is not null and b.fixed is not null and l.residual <= $most
"""
_TWICE = "select count(*) from images where contradiction"
_FREE = "select count(*) filter (free), count(*) filter (fixed is not null) from placed"


@dataclass(frozen=True)
class ClassPlacement:
    """The good images of a class by split, and those that wait. `units`: its groups, ties and single images.

    `fixed`: the labels have placed all of them. `free`: tonight's hash has placed some of them.
    """

    label: str
    train: int
    validation: int
    test: int
    waiting: int
    units: int
    fixed: bool
    free: bool

    @property
    def placed(self) -> int:
        return self.train + self.validation + self.test


@dataclass(frozen=True)
class Placement:
    """The outcome of a night's split. asked: the share of test images that the data set file asks for.

    groups: by split, and in all; None without groups. An image without a group counts as its own.
    largest: the largest group, or the image that a tie is named by, with its images.
    tied: images that go with another one, and the number of those. scene: images by label that look like others
    of their class, but like too many to be a copy of one.
    leaks: test images that look like a training image; None if nobody looked.
    copies: copies across the labels' own split; twice: equal bytes in several splits of the labels.
    free, fixed: images that tonight's hash has placed, and those of the labels.
    """

    classes: tuple[ClassPlacement, ...]
    asked: float = 0.25
    groups: tuple[int, int, int, int] | None = None
    largest: tuple[str, bool, int] | None = None
    tied: tuple[int, int] = (0, 0)
    scene: Mapping[str, int] = field(default_factory=dict)
    leaks: int | None = None
    copies: int = 0
    twice: int = 0
    free: int = 0
    fixed: int = 0

    @property
    def train(self) -> int:
        return sum(each.train for each in self.classes)

    @property
    def validation(self) -> int:
        return sum(each.validation for each in self.classes)

    @property
    def test(self) -> int:
        return sum(each.test for each in self.classes)

    @property
    def placed(self) -> int:
        return self.train + self.validation + self.test


def placement(db: DuckDBPyConnection, asked: float, copy: float | None) -> Placement:
    """Sum up `placed`, `finished` and `look_alikes`. asked: as in `Placement`.

    copy: the largest residual of a copy; None if nobody looked.
    """
    groups = db.sql(_GROUPS).fetchall()
    largest = db.sql(_LARGEST).fetchall()
    free, fixed = db.sql(_FREE).fetchall()[0]
    return Placement(
        tuple(ClassPlacement(*row) for row in db.sql(_CLASSES).fetchall()),
        asked,
        groups[0] if groups else None,
        largest[0] if largest else None,
        db.sql(_TIED).fetchall()[0],
        dict(db.sql(_SCENE).fetchall()),
        None if copy is None else int(db.sql(_LEAKS).fetchall()[0][0]),
        0 if copy is None else int(db.execute(_COPIES, {"most": copy}).fetchall()[0][0]),
        int(db.sql(_TWICE).fetchall()[0][0]),
        free,
        fixed,
    )
