"""Tell whether a picture is older than what it shows: docs/images/made.json has the digest of the code behind each.

Times of files mean nothing in a checkout. Comments and docstrings do not count.
"""

import ast
import hashlib
import json
import re
from pathlib import Path

HOME = Path(__file__).parents[1]
IMAGES = HOME / "docs" / "images"
MADE = IMAGES / "made.json"
_PAGES = ("tasks/report/templates/report.css", "tasks/report/pages.py")
SHOWS = {
    "ten-minutes.svg": ("docs/terminal.py", "docs/tutorial.md", "data/samples/parts.py"),
    "report.png": (*_PAGES, "tasks/report/templates/report.html", "tasks/report/sections.py", "tasks/report/story.py"),
    "gallery.png": (*_PAGES, "tasks/report/templates/gallery.*", "tasks/report/gallery_page.py"),
    "review.png": (*_PAGES, "tasks/report/templates/gallery.*", "tasks/report/gallery_page.py", "tasks/review/*.py"),
    "prefect-run.png": ("tasks/report/night_page.py", "tasks/artifacts.py"),
    "mlflow-model.png": ("tasks/release/card.py",),
}


def digest(name: str) -> str:
    """Return the digest of what a picture shows."""
    found = hashlib.sha256()
    for pattern in SHOWS[name]:
        for path in sorted(HOME.glob(pattern)):
            found.update(path.name.encode() + _content(path))
    return found.hexdigest()[:16]


def _content(path: Path) -> bytes:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return "".join(re.findall(r"```console\n(.*?)```", text, re.DOTALL)).encode()
    if path.suffix != ".py":
        return text.encode()
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            node.body[0].value.value = ""  # type: ignore[attr-defined]
    return ast.unparse(tree).encode()  # the same for all releases of Python, unlike a dump


def stamp(name: str) -> None:
    """Note that the picture has just been made."""
    made = json.loads(MADE.read_text(encoding="utf-8")) if MADE.exists() else {}
    MADE.write_text(json.dumps(made | {name: digest(name)}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def outdated() -> list[str]:
    """Return the pictures that are missing, or older than what they show."""
    made = json.loads(MADE.read_text(encoding="utf-8")) if MADE.exists() else {}
    return [name for name in SHOWS if made.get(name) != digest(name) or not (IMAGES / name).exists()]
