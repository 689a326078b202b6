"""HTML pages that need nothing else: where they are written, and what they are made with."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.storage.files import absolute, write_text

_TEMPLATES = Path(__file__).with_name("templates")


def check_place(output: str, example: str) -> UPath:
    """Where a page goes. Raises UserError for a folder."""
    to = absolute(UPath(output))
    if output.endswith("/") or to.is_dir():
        raise UserError(f"--output: {output} is a folder. Name a file in it, such as {to / example}.")
    return to


def write_page(to: UPath, page: str) -> int:
    """Its size in bytes. Raises UserError where nothing can be written."""
    try:
        write_text(to, page)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"--output: cannot write {to} ({reason}). Choose another place.") from None
    return len(page.encode())


def environment() -> Environment:
    """Whatever comes from data is escaped, and what a template names must be there."""
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def own(name: str) -> Markup:
    """A style or a script of ours, to be put into a page as it is."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))
