"""What the Prefect pages are written with: pictures inside them, and names that are no Markdown."""

import base64
import re


def picture(title: str, png: bytes) -> str:
    """Inside the page, as a data URI: both of Prefect's UIs show one in Markdown."""
    from resnet_core.plotting.canvas import smaller  # which brings Matplotlib's font, and most pages have no picture

    return f"![{title}](data:image/webp;base64,{base64.b64encode(smaller(png)).decode()})"


def plain(text: str) -> str:
    """A file's name is no Markdown: it makes no link, picture, table cell or HTML."""
    return re.sub(r"([\\`*_\[\]|<>&~!:])", r"\\\1", re.sub(r"\s+", " ", text))
