"""Markdown: of the pages that Prefect and MLflow show, with text from data; and Prefect's pages and tables.

`plain` and `code` are the only escapes for Markdown.
"""

import base64
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.runtime import flow_run

from resnet_core.storage.names import visible
from tasks.values import Check


class Markdown(str):
    """Markdown of our own; any other text in a table is data and is escaped."""


def plain(text: str) -> str:
    """Return `text` in one line and escaped, so that it makes no link, picture, table cell or HTML."""
    # MLflow's pages show a backslash before a colon: only one that may begin an address or an emoji is escaped. They
    # know none before "<": the ">" of a tag has to be escaped, too, or the tag vanishes.
    escaped = re.sub(r"([\\`*_\[\]|<>&~!#]|:(?=\S))", r"\\\1", visible(re.sub(r"\s+", " ", text)))
    return re.sub(r"^(\d+(?=[.)](?:\s|$)))?([+=.)-])", r"\1\\\2", escaped)  # no list, no line below a heading


def publish_page(page: str, key: str, description: str) -> None:
    """Show a page in Prefect, whose description is Markdown, too."""
    create_markdown_artifact(page, key=key, description=plain(_dated(description)))


def publish_table(rows: Sequence[Mapping[str, object]], key: str, description: str) -> None:
    """Show a table in Prefect, whose cells are Markdown and HTML, too: links, pictures of other servers."""
    shown = [{name: plain(cell) if isinstance(cell, str) else cell for name, cell in row.items()} for row in rows]
    create_table_artifact(shown, key=key, description=plain(_dated(description)))


def _dated(description: str) -> str:
    """Put the run's name, with its data set and date, before a description."""
    return f"{flow_run.name}: {description}" if flow_run.name else description


def code(text: object) -> Markdown:
    """Return text in one line as a code span, such as a path to copy. Backticks in it do not end the span."""
    line = visible(re.sub(r"\s+", " ", str(text))).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return Markdown(f"{fence} {line} {fence}" if "`" in line else f"`{line}`")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]], numbers: Collection[str] = ()) -> str:
    """Return a Markdown table, with the columns named in `numbers` aligned to the right.

    Cells are text and are escaped, but for those that are `Markdown`.
    """
    rule = [Markdown("---:" if name in numbers else "---") for name in header]
    lines = (
        [cell if isinstance(cell, Markdown) else plain(str(cell)) for cell in cells] for cells in (header, rule, *rows)
    )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def checks_table(checks: Iterable[Check]) -> str:
    """Return the gate's checks as a table."""
    return markdown_table(
        ("check", "verdict", "wanted", "found"),
        (
            (check.name, "passed" if check.passed else Markdown("**failed**"), check.wanted, check.found)
            for check in checks
        ),
    )


def picture(title: str, png: bytes) -> str:
    """Return an image inside the page, as a data URI, which both of Prefect's UIs show."""
    from resnet_core.plotting.canvas import smaller  # imports Matplotlib; few pages have a picture

    return f"![{title}](data:image/webp;base64,{base64.b64encode(smaller(png)).decode()})"
