"""HTML pages as single files: fill a template, embed images, write the file."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.storage.files import to_output, write_text
from resnet_core.storage.names import visible

_BEGIN = b'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'  # of every page
_TEMPLATES = Path(__file__).with_name("templates")


def check_place(output: str, example: str) -> UPath:
    """Return the place of a page. Raises UserError for a folder, and for a file that is not such a page."""
    to = to_output(output, "--output")
    if output.endswith("/") or to.is_dir():
        raise UserError(f"--output: {output} is a folder. Name a file in it, such as {to / example}.")
    if to.exists() and not to.read_bytes().lstrip().startswith(_BEGIN):
        raise UserError(f"--output: {output} is not a page of Grayline's, and is not replaced. Choose another name.")
    return to


def write_page(to: UPath, page: str) -> int:
    """Write the page. Returns its size in bytes. Raises UserError for a place that cannot be written."""
    try:
        write_text(to, page)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"--output: cannot write {to} ({reason}). Choose another place.") from None
    return len(page.encode())


def environment() -> Environment:
    """Return Jinja's environment: it escapes values, and an undefined name is an error."""
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _visible(value: object) -> object:
    """Show control characters and marks of direction in text from data as codes; Markup is our own."""
    return (
        value if isinstance(value, Markup) or not isinstance(value, str) else "\n".join(map(visible, value.split("\n")))
    )


def own(name: str) -> Markup:
    """Return a style or script of `templates/` for a page, not escaped."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))  # noqa: S704  a file of ours


def image(content: bytes, kind: str, size: tuple[int, int], alt: str, small: int) -> dict[str, Any]:
    """Return an image for a template: data URI, width, height, alt text.

    The size in pixels keeps the page still while it loads. Images below `small` pixels are enlarged without smoothing.
    """
    uri = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return {"uri": uri, "width": size[0], "height": size[1], "alt": alt, "small": max(size) < small}
