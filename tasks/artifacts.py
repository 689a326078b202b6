"""Markdown of the Prefect pages: tables, pictures, and text from data."""

import base64
import re
from collections.abc import Collection, Iterable, Sequence

from tasks.values import Check


def plain(text: str) -> str:
    """Return `text` in one line and escaped, so that it makes no link, picture, table cell or HTML."""
    return re.sub(r"([\\`*_\[\]|<>&~!:])", r"\\\1", re.sub(r"\s+", " ", text))


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]], numbers: Collection[str] = ()) -> str:
    """Return a Markdown table, with the columns named in `numbers` aligned to the right.

    Cells are Markdown. Pass text that comes from data through `plain`.
    """
    rule = ["---:" if name in numbers else "---" for name in header]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in (header, rule, *rows))


def checks_table(checks: Iterable[Check]) -> str:
    """Return the gate's checks as a table."""
    return markdown_table(
        ("check", "wanted", "found", ""),
        (
            (plain(check.name), plain(check.wanted), plain(check.found), "passed" if check.passed else "**failed**")
            for check in checks
        ),
    )


def picture(title: str, png: bytes) -> str:
    """Return an image inside the page, as a data URI, which both of Prefect's UIs show."""
    from resnet_core.plotting.canvas import smaller  # imports Matplotlib; few pages have a picture

    return f"![{title}](data:image/webp;base64,{base64.b64encode(smaller(png)).decode()})"
