"""Print results: the console of all commands, the style of their tables, and the table of checks."""

import sys
from typing import Any

from rich.table import Column, Table

from tasks.progress import PlainConsole
from tasks.values import Check

_PIPE_WIDTH = 100_000  # columns in a file or a pipe, where a row is one line and no path is cut


class _Output(PlainConsole):
    def print(self, *objects: Any, **how: Any) -> None:
        """Print; a row of a table ends with its last word where it is not on a terminal."""
        if self.is_terminal or not any(isinstance(each, Table) for each in objects):
            super().print(*objects, **how)
            return
        with self.capture() as captured:
            super().print(*objects, **how)
        self.file.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())


console = _Output(soft_wrap=True, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def say(*lines: str) -> None:
    """Print lines. A line break within a line is of the data, and is printed as a code."""
    for line in lines:
        console.print(line)


def table(*columns: str | Column, title: str | None = None) -> Table:
    """Return an empty table without lines, its title at the left."""
    whole = [Column(column, overflow="fold") if isinstance(column, str) else column for column in columns]
    return Table(*whole, title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))


def number(heading: str) -> Column:
    """Return a column that is aligned at the right."""
    return Column(heading, justify="right")


def show_checks(checks: tuple[Check, ...]) -> None:
    """Print the verdict, the requirement and the finding of every check."""
    rows = table("check", "verdict", "wanted", "found")
    for check in checks:
        warns = check.passed and check.found.startswith("warning")
        style = "yellow" if warns else "" if check.passed else "red"
        rows.add_row(check.name, "passed" if check.passed else "failed", check.wanted, check.found, style=style)
    console.print(rows)
    say("")
