"""Tables for notebooks. Every text goes through `escape`: names and labels are the data's own."""

from collections.abc import Iterable, Sequence
from html import escape


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with a title above it."""
    head = "".join(f"<th>{escape(text)}</th>" for text in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    style = ' style="text-align: left"'
    return f"<p><b>{escape(title)}</b></p><table{style}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
