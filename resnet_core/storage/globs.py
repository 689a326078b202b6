"""Globs: which paths below a folder a pattern names, part by part."""

import fnmatch
import re
from dataclasses import dataclass
from functools import lru_cache

_WILD = re.compile(r"[*?\[]")
# The parts of the glob that the next name may match; None without a glob: any name matches.
State = frozenset[int] | None


@dataclass(frozen=True)
class Glob:
    """The folder before the first part with a wildcard, and the parts from there on.

    As in a shell, `*` and `?` stay within a name, and `**` is any number of folders.
    """

    folder: str
    parts: tuple[str, ...]

    @property
    def prefix(self) -> str:
        """The beginning of every name in the folder that the glob takes."""
        return _WILD.split(self.parts[0])[0]

    def begin(self) -> State:
        return self._with_skipped({0})

    def enter(self, state: State, name: str) -> State:
        """Return the state within the folder `name`; an empty one if nothing there can match."""
        assert state is not None
        inside = {place for place in state if self.parts[place] == "**"}
        inside |= {place + 1 for place in state if self.parts[place] != "**" and _fits(self.parts[place], name)}
        return self._with_skipped({place for place in inside if place < len(self.parts)})

    def takes(self, state: State, name: str) -> bool:
        assert state is not None
        last = len(self.parts) - 1
        return last in state and (self.parts[last] == "**" or _fits(self.parts[last], name))

    def _with_skipped(self, state: set[int]) -> State:
        for place in sorted(state):
            while place < len(self.parts) - 1 and self.parts[place] == "**":
                place += 1
                state.add(place)
        return frozenset(state)


def is_glob(source: str) -> bool:
    return _WILD.search(source) is not None and not source.startswith(("http://", "https://"))


def parse_glob(source: str) -> Glob:
    """Split the glob of an absolute path or URL."""
    scheme, mark, rest = source.rpartition("://")
    parts = rest.split("/")
    first = next(place for place, part in enumerate(parts) if _WILD.search(part))
    folder = "/".join(parts[:first])
    return Glob(scheme + mark + folder or "/", tuple(part for part in parts[first:] if part))


def matches(glob: Glob, path: str) -> bool:
    """Return whether the glob names a path below its folder."""
    *folders, name = path.split("/")
    state = glob.begin()
    for folder in folders:
        state = glob.enter(state, folder)
    return glob.takes(state, name)


def _fits(pattern: str, name: str) -> bool:
    return _pattern(pattern).match(name) is not None


@lru_cache
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))
