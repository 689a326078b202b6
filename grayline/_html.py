"""Tables for notebooks. Every text goes through `escape`: names and labels are the data's own."""

import base64
from collections.abc import Iterable, Sequence
from html import escape


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with a title above it."""
    head = "".join(f"<th>{escape(text)}</th>" for text in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    style = ' style="text-align: left"'
    return f"<p><b>{escape(title)}</b></p><table{style}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def picture(name: str, png: bytes) -> str:
    """Return a PNG within the page."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{escape(name)}" style="max-width: 480px" src="data:image/png;base64,{data}">'
