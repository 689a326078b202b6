"""Matching: which file of the source a path in the labels names.

A path is read in these ways, after `resnet_core.storage.names.fold_path`, and for `file://` and `%20` also unquoted:

1. relative to the source;
2. absolute or a URL, below the source;
3. relative to the folder of the labels;
4. after the source's own name, wherever that stands in the path; files in a folder of that name go without it, too.

If every path that names a file does so by the first way, the first way alone holds. Otherwise a path whose ways lead
to different files is refused.

Labelling tools know files by names of their own. If these ways lead nowhere, a name may be the end of a file's path,
or end in it. A name without a suffix stands for a file with one.
"""

import os
import posixpath
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import unquote

from resnet_core.errors import UserError
from resnet_core.storage.globs import is_glob, parse_glob
from resnet_core.storage.locations import absolute, facts, is_url
from resnet_core.storage.names import fold_path

_SHOWN = 3
_PACKED = (".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


@dataclass(frozen=True)
class Places:
    """The absolute place of the source, and of the folder that holds the labels."""

    source: str
    labels: str

    @classmethod
    def of(cls, source: str, table: str) -> "Places":
        """Return the places of a source, of a glob its folder, and of the table with the labels."""
        root, file = absolute(source), absolute(table)
        with suppress(OSError):  # a pattern, or whoever lists it says more
            facts(root)
            return cls(root, posixpath.dirname(file))
        return cls(parse_glob(root).folder if is_glob(source) else root, posixpath.dirname(file))

    @property
    def roots(self) -> tuple[str, ...]:
        """Return the source with and without symbolic links."""
        real = self.source if is_url(self.source) else os.path.realpath(self.source)
        return tuple(dict.fromkeys(fold_path(root) for root in (self.source, real)))

    @property
    def names(self) -> tuple[str, ...]:
        """Return the source's own name, that of an archive also without its suffix."""
        name = self.roots[0].rpartition("/")[2]
        packed = next((suffix for suffix in _PACKED if name.lower().endswith(suffix)), None)
        short = name[: -len(packed)] if packed else posixpath.splitext(name)[0]
        return tuple(dict.fromkeys(filter(None, (name, short))))


def match(paths: Sequence[str], files: Iterable[str], places: Places, *, tails: bool = False) -> dict[str, str]:
    """Return the file of each path of the labels that names one. Raises UserError for an ambiguous path.

    paths: those of the labels, all different. files: those of the source, relative to it. tails: the paths are names of
    a labelling tool.
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    for file in files:
        by_name[fold_path(file)].append(file)
    inner = tuple(f"{name}/" for name in places.names)
    shorter: dict[str, list[str]] = defaultdict(list)
    for name, spelt in by_name.items():
        if name.startswith(inner):
            shorter[name.partition("/")[2]] += spelt

    plain: dict[str, str] = {}
    ways: dict[str, list[str]] = {}
    for path in paths:
        if same := by_name.get(fold_path(path)):
            plain[path] = path if path in same else _only(path, same)
        else:
            named = [[*by_name.get(way, ()), *shorter.get(way, ())] for way in _readings(path, places)]
            if found := list(dict.fromkeys(file for spelt in named for file in spelt)):
                ways[path] = found
    if tails:
        ways |= _by_tails([path for path in paths if path not in plain and path not in ways], by_name)
    matched = plain | {path: _only(path, found) for path, found in ways.items()}
    for path in plain if ways else ():
        named = [[*by_name.get(way, ()), *shorter.get(way, ())] for way in _readings(path, places)]
        if others := [file for spelt in named for file in spelt if file not in by_name[fold_path(path)]]:
            _only(path, [plain[path], *others])
    _check_once(matched)
    return matched


def _by_tails(paths: Sequence[str], by_name: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the files of names that are the end of a file's path, or that end in it."""
    last: dict[str, list[str]] = defaultdict(list)
    for name in by_name:
        base = posixpath.basename(name)
        for key in {base, posixpath.splitext(base)[0]}:
            last[key].append(name)
    found: dict[str, list[str]] = {}
    for path in paths:
        name = fold_path(path)
        bare = not posixpath.splitext(name)[1]
        for file in last.get(posixpath.basename(name), ()):
            short, long = sorted(["/" + (posixpath.splitext(file)[0] if bare else file), "/" + name], key=len)
            if long.endswith(short):
                found.setdefault(path, []).extend(by_name[file])
    return {path: sorted(files) for path, files in found.items()}


def _only(path: str, found: Sequence[str]) -> str:
    if len(found) > 1:
        names = " or ".join(ascii(file) for file in found[:_SHOWN])
        raise UserError(
            f"{path!r} may be {names} of the source. Write the path relative to the source, as one of these."
        )
    return found[0]


def _check_once(matched: Mapping[str, str]) -> None:
    named: dict[str, str] = {}
    for path, file in matched.items():
        if file in named:
            raise UserError(f"{named[file]!r} and {path!r} name the same file. Keep one row.")
        named[file] = path


def _readings(path: str, places: Places) -> Iterator[str]:
    """Yield the path relative to the source, by every way but the first."""
    local = path.removeprefix("file://localhost").removeprefix("file://").removeprefix("file:")
    texts = [local] if local == path else [unquote(local), local]
    if "%" in local:
        texts.append(unquote(local))
    for text in dict.fromkeys(texts):
        name = fold_path(text)
        yield name
        if not (name.startswith("/") or is_url(name)):
            name = posixpath.normpath(f"{fold_path(places.labels)}/{name}") if not is_url(places.labels) else name
            yield from _below(name, places.roots)
            name = fold_path(text)
        yield from _below(name, places.roots)
        parts = name.split("/")
        for position, part in enumerate(parts[:-1]):
            if part in places.names:
                yield "/".join(parts[position + 1 :])


def _below(name: str, roots: Sequence[str]) -> Iterator[str]:
    yield from (name[len(root) + 1 :] for root in roots if name.startswith(f"{root}/"))


def difference(paths: Sequence[str], files: Sequence[str]) -> str:
    """Show some paths of the labels and of the source, and say how they differ: a line for the user."""
    shown = ", ".join(map(repr, paths[:_SHOWN]))
    return f"the labels have {shown}; the source has {', '.join(map(repr, files[:_SHOWN]))}. {_rule(paths, files)}"


def _rule(paths: Sequence[str], files: Sequence[str]) -> str:
    """Return the likely difference of most paths, with its remedy."""
    theirs, ours = [fold_path(path) for path in paths], [fold_path(file) for file in files]
    ways: list[tuple[Callable[[str], str], str]] = [
        (str.casefold, "The case differs: write the paths as the files are spelt."),
        (lambda name: posixpath.splitext(name)[0], "The extensions differ: write those of the files."),
        (str.strip, "There are blanks around the names: remove them."),
    ]
    for change, text in ways:
        if _most(theirs, {change(name) for name in ours}, change):
            return text
    by_name = {posixpath.basename(name): name for name in ours}
    fronts: Counter[tuple[str, str]] = Counter()
    for name in theirs:
        if file := by_name.get(posixpath.basename(name)):
            a, b = name.split("/"), file.split("/")
            while a and b and a[-1] == b[-1]:
                a, b = a[:-1], b[:-1]
            fronts["".join(f"{part}/" for part in a), "".join(f"{part}/" for part in b)] += 1
    if fronts and 2 * fronts.total() > len(theirs):
        (front, other), _ = fronts.most_common(1)[0]
        if front and not other:
            return f"The labels' paths begin with {front!r}: remove it."
        if other and not front:
            return f"The files' paths begin with {other!r}: write it in front of the labels' paths."
        return "The names agree, the folders do not: write the paths relative to the source."
    return "No name agrees: is `labels:` of this source?"


def _most(theirs: Sequence[str], ours: set[str], change: Callable[[str], str]) -> bool:
    return 2 * sum(change(name) in ours for name in theirs) > len(theirs)
