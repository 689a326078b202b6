"""Layout: splits that the folders or the tables of a source are named by, such as `train/cat/1.png`.

They are splits where each of them holds the classes of `train`, or a part of them. Sources that only resemble that are
refused with the remedies. A column `split` of the labels wins, and `split: {folders: false}` turns the search off.

split       given by the source                       not given
test        those images alone are held out           drawn from `train`
validation  those images                              drawn from `train`, if it is asked for and no test is given
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from duckdb import DuckDBPyConnection

from resnet_core.catalog.splits import SplitConfig
from resnet_core.errors import UserError, plural, some_of
from resnet_core.sources.source import Kind
from resnet_core.storage.database import count
from resnet_core.storage.names import fold_label
from resnet_core.storage.split_names import TEST, TRAIN, VALIDATION, is_generic, read_name, settle

log = logging.getLogger("grayline")

_DEEPEST = 8  # folders that may hold nothing but a folder
_MOST_NAMES = 10_000  # folders at one depth; a source with more is not laid out by splits
_SHOWN = 3
_DEPTH = "(length(path) - length(replace(path, '/', '')))"  # folders of a path
_TABLE = "regexp_replace(path, '#(row|image)=[0-9]+$', '')"
_FILES = "listed where not coalesce(ignored, false) and size is not null"


@dataclass(frozen=True)
class _Found:
    """Where the splits stand: SQL for the name that tells the split, and for the label. The split of each name."""

    name: str
    label: str
    splits: Mapping[str, str]


def find_splits(
    db: DuckDBPyConnection, source: str, kind: Kind, config: SplitConfig, *, labelled: bool, decided: bool = False
) -> tuple[str, ...]:
    """Write the splits of the source into `listed`, and the labels below them. Returns the splits that it gives.

    labelled: a table has given the labels. decided: an earlier night has read names of the source as splits, so that
    other names only wait. Raises UserError for what may be splits or classes.
    """
    if labelled and count(db, "select count(split) from listed"):
        return ()
    if not config.folders or kind == "manifest":
        return ()
    tables = kind in ("parquet", "idx")
    found = _by_tables(db, source, decided) if tables else _by_folders(db, source, kind, labelled, decided)
    if found is None:
        return ()
    sides = _classes_of(db, found)
    if not decided:
        _check_classes(source, sides, labelled=labelled or tables)
    elif not labelled:
        _set_aside(db, found)
    given = tuple(split for split in (VALIDATION, TEST) if sides[split].total())
    if not given and not decided:
        return ()
    _write(db, found, given, config)
    log.info("splits      %s", _say(db, found, sides, given, config))
    return given


def remaining(config: SplitConfig, given: Sequence[str]) -> SplitConfig:
    """Return the shares that are still drawn from the training images."""
    return replace(config, validation=0.0) if given else config


def _by_tables(db: DuckDBPyConnection, source: str, decided: bool) -> _Found | None:
    """Read the names of files, and of the folders that hold them: `data/train-00000-of-00002.parquet`."""
    files = [name for (name,) in db.sql(f"select distinct {_TABLE} from {_FILES} order by 1").fetchall()]
    names: dict[str, str] = {}
    for file in files:
        parts = (part.partition(".")[0] for part in reversed(file.split("/")))
        names[file] = next((part for part in parts if read_name(part).split), "")
    splits = settle({file: read_name(name) for file, name in names.items()})
    if TRAIN not in splits.values() or len(set(splits.values())) == 1:
        return None
    if (others := [file for file in files if file not in splits]) and not decided:
        raise _refusal(source, f"tables named like splits stand beside {_listed(others)}")
    return _Found(_TABLE, "label", splits)


def _by_folders(db: DuckDBPyConnection, source: str, kind: Kind, labelled: bool, decided: bool) -> _Found | None:
    """Find the depth at which folders are named like splits. The top, below folders that hold all, or in classes."""
    depth, names = 1, _names_at(db, 1)
    while len(names) == 1 and depth < _DEEPEST:
        depth, names = depth + 1, _names_at(db, depth + 1)
    if not 1 < len(names) <= _MOST_NAMES:
        return None
    if not any(read_name(name).split for name in names):
        found = _in_classes(db, source, depth, kind, labelled, decided)
        if found is None and depth > 1 and not labelled:
            _unwrap(db, depth, kind)
        if found is None and not labelled:
            _say_same_below(db, depth, names)
        return found
    if not (decided or _are_splits(db, source, depth, names)):
        return None
    splits = settle({name: read_name(name) for name in (_alike(names) if decided else names)})
    if TRAIN not in splits.values():  # those of an earlier night are gone
        return None
    inner = depth
    while kind != "glob" and not labelled and _is_wrapped(db, depth, inner):
        inner += 1
    return _Found(_part(depth), _label_below(inner, kind, labelled), splits)


def _are_splits(db: DuckDBPyConnection, source: str, depth: int, names: Sequence[str]) -> bool:
    """Return whether the folders of a depth are splits; False: classes. Raises UserError if it cannot be told."""
    read = {name: read_name(name) for name in names}
    plain = {name: found.split for name, found in read.items() if found.split and not found.rest}
    others = [name for name, found in read.items() if not found.split]
    if others:
        if not plain:
            return False
        below = db.execute(
            f"select distinct {_part(depth + 1)} from {_FILES} and {_DEPTH} > $1 and {_part(depth)} in "
            "(select unnest($2::varchar[]))",
            [depth, list(plain)],
        ).fetchall()
        # Vehicles, `bus car train`, or parts, `invalid valid`: a split needs another beside it.
        if len(set(plain.values())) == 1 and TEST not in plain.values() and not {name for (name,) in below} & {*others}:
            log.info("splits      %s is a class, for no other split stands beside it", _listed(plain))
            return False
        raise _refusal(source, f"{_listed(plain)} stand beside {_listed(others)}, and may be splits or classes")
    splits = set(settle(read).values())
    if len({found.rest for found in read.values()}) > 1 and not plain:
        if TRAIN in splits and len(splits) > 1:
            raise _refusal(source, f"{_listed(names)} are named like splits and like classes")
        return False
    if TRAIN not in splits or len(splits) == 1 or len({found.rest for found in read.values()}) > 1:
        raise _refusal(source, f"{_listed(names)} are named like splits, but not like `train` and `test`")
    return True


def _unwrap(db: DuckDBPyConnection, depth: int, kind: Kind) -> None:
    """Take the folders below the only one as classes: in an archive, whose folder nobody can name, or in `train`."""
    (above,) = _names_at(db, depth - 1)
    if kind in ("tar", "zip") or (kind == "folder" and read_name(above).split):
        db.execute(f"update listed set label = {_label_below(depth - 1, kind, False)}")
        log.info("splits      the labels are the folders within %s, which holds everything", above)


def _alike(names: Sequence[str]) -> list[str]:
    """Return the names that name splits, without those that differ in their other words: `train`, not `train_bus`."""
    rests = Counter(read_name(name).rest for name in names if read_name(name).split)
    rest = max(rests, key=lambda rest: (rests[rest], -len(rest)))
    return [name for name in names if read_name(name).split and read_name(name).rest == rest]


def _set_aside(db: DuckDBPyConnection, found: _Found) -> None:
    """Take the label from images outside of the splits: nobody has said where they belong."""
    names = [name for (name,) in db.sql(f"select distinct {found.name} from {_FILES} order by 1").fetchall()]
    others = [name for name in names if name not in found.splits]
    rows = "select unnest($names::varchar[])"
    images = count(db, f"select count(*) from {_FILES} and {found.name} in ({rows})", {"names": others})
    if images:
        db.execute(f"update listed set label = null where {found.name} in ({rows})", {"names": others})
        log.warning(
            "splits      %s beside the splits: %s wait without a label. Move them into the splits, or name `labels:` "
            "with a column `split`",
            _listed(others), plural(images, "image"),
        )  # fmt: skip


def _say_same_below(db: DuckDBPyConnection, depth: int, names: Sequence[str]) -> None:
    """Say it if the folders that are taken as classes all hold the same folders: those may be the classes."""
    below = db.sql(
        f"select list(distinct {_part(depth + 1)} order by {_part(depth + 1)}) from {_FILES} and {_DEPTH} > {depth} "
        f"group by {_part(depth)}"
    ).fetchall()
    if len(below) == len(names) and len({tuple(inner) for (inner,) in below}) == 1 and len(below[0][0]) > 1:
        log.warning(
            "splits      the classes are %s, and each holds %s. If those are the classes, name them by `labels:`, or "
            "write `source: FOLDER%s/*`",
            _listed(names), _listed(below[0][0]), "/*" * (depth + 1),
        )  # fmt: skip


def _in_classes(
    db: DuckDBPyConnection, source: str, depth: int, kind: Kind, labelled: bool, decided: bool
) -> _Found | None:
    """Find splits within each class: `cat/train/1.png`."""
    names = _names_at(db, depth + 1)
    if len(names) > _MOST_NAMES:
        return None
    splits = settle({name: found for name in names if not (found := read_name(name)).rest})
    if TRAIN not in splits.values() or len(set(splits.values())) == 1:
        return None
    stray = count(db, f"select count(*) from {_FILES} and {_DEPTH} = {depth}")
    if decided:
        return _Found(_part(depth + 1), "label" if labelled else _part(depth), splits)
    if others := [name for name in names if name not in splits]:
        raise _refusal(source, f"within its folders, {_listed(splits)} stand beside {_listed(others)}")
    if stray and not labelled:
        raise _refusal(source, f"within its folders, {_listed(splits)} stand beside {stray:,} files")
    return _Found(_part(depth + 1), "label" if labelled else _part(depth), splits)


def _is_wrapped(db: DuckDBPyConnection, depth: int, inner: int) -> bool:
    """Return whether each split holds a single folder that names no class: `train/images/cat/1.png`."""
    rows = db.sql(
        f"select {_part(depth)}, min({_part(inner + 1)}), count(distinct {_part(inner + 1)}), "
        f"bool_and({_DEPTH} > {inner + 1}) from {_FILES} and {_DEPTH} >= {depth} group by 1"
    ).fetchall()
    return all(one == 1 and deep and (is_generic(name) or read_name(name).split) for _, name, one, deep in rows)


def _classes_of(db: DuckDBPyConnection, found: _Found) -> defaultdict[str, Counter[str | None]]:
    """Return by split the number of images by class; None: without a class."""
    sides: defaultdict[str, Counter[str | None]] = defaultdict(Counter)
    for name, label, images in db.sql(
        f"select {found.name}, {found.label}, count(*) from {_FILES} group by all"
    ).fetchall():
        if name in found.splits:
            sides[found.splits[name]][fold_label(label) if label else None] += images
    return sides


def _check_classes(source: str, sides: defaultdict[str, Counter[str | None]], *, labelled: bool) -> None:
    """Raise UserError unless the other splits hold classes of `train` alone. labelled: rows without a label wait."""
    for split, classes in ((split, sides[split]) for split in (TRAIN, VALIDATION, TEST)):
        if labelled:
            del classes[None]
        elif classes[None] and len(classes) == 1:
            raise _refusal(source, f"{split} holds images without class folders, as a set without labels does")
    known = {label for label in sides[TRAIN] if label is not None}
    if not labelled and len(known) < 2:
        raise _refusal(source, f"{TRAIN} holds the single class {_listed(sorted(known))}, so that these may be classes")
    for split in (VALIDATION, TEST):
        if more := sorted(label for label in sides[split] if label is not None and label not in known):
            raise _refusal(source, f"{split} holds classes that {TRAIN} lacks: {_listed(more)}")


def _write(db: DuckDBPyConnection, found: _Found, given: Sequence[str], config: SplitConfig) -> None:
    """Write split and label. Training images are open as long as something is to be drawn from them."""
    db.execute("create or replace temp table named (name varchar, split varchar)")
    db.executemany("insert into named values ($1, $2)", list(found.splits.items()))
    train = f"case when {_share('path', config)} then '{VALIDATION}' else '{TRAIN}' end"
    train = train if TEST in given and VALIDATION not in given else f"'{TRAIN}'" if TEST in given else "null"
    db.execute(
        f"update listed set label = {found.label}, split = case when named.split in {(*given, '')} then named.split "
        f"when named.split = '{TRAIN}' then {train} end from named where named.name = {found.name}"
    )


def _share(key: str, config: SplitConfig) -> str:
    """Return SQL for whether an image is drawn for validation, by the hash of its group or its path."""
    text = f"sha256('{config.seed}:' || coalesce(\"group\", {key}))"
    return f"('0x' || substr({text}, 1, 16))::ubigint / 18446744073709551616.0 < {config.validation}"


def _say(
    db: DuckDBPyConnection,
    found: _Found,
    sides: Mapping[str, Counter[str | None]],
    given: Sequence[str],
    config: SplitConfig,
) -> str:
    """Return what was understood, in one line."""
    parts = []
    for split in (TRAIN, *given):
        names = [name for name, of in found.splits.items() if of == split]
        lacks = sorted(label for label in sides[TRAIN] if label is not None and label not in sides[split])
        missing = f", without {_listed(lacks)}" if lacks else ""
        parts.append(f"{split} is {_listed(names)} ({sides[split].total():,} images{missing})")
    drawn = [] if TEST in given else [f"{config.test:.0%} of {TRAIN} is held out for {TEST}"]
    if config.validation and VALIDATION not in given:
        drawn.append(f"{config.validation:.0%} of {TRAIN} is drawn for {VALIDATION}")
    more = "; ".join(drawn) or f"nothing is drawn from {TRAIN}"
    return f"read from the names: {'; '.join(parts)}; {more}. If these are classes, write `split: {{folders: false}}`"


def _names_at(db: DuckDBPyConnection, depth: int) -> list[str]:
    """Return the names of folders at a depth, 1 at the top."""
    query = f"select distinct {_part(depth)} from {_FILES} and {_DEPTH} >= {depth} order by 1 limit {_MOST_NAMES + 1}"
    return [name for (name,) in db.sql(query).fetchall()]


def _part(depth: int) -> str:
    return f"split_part(path, '/', {depth})"


def _label_below(depth: int, kind: Kind, labelled: bool) -> str:
    """Return SQL for the label of a file below a split. It is the next folder, or given by the table or the glob."""
    if labelled:
        return "label"
    return f"case when {_DEPTH} > {depth} then {'label' if kind == 'glob' else _part(depth + 1)} end"


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    return some_of([name or "''" for name in names], _SHOWN)


def _refusal(source: str, why: str) -> UserError:
    return UserError(
        f"{source}: {why}. If they are splits, let each hold folders of the same classes, move the rest out, or name "
        "`labels:` with a column `split`; if they are classes, write `split: {folders: false}`."
    )
