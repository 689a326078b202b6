"""Make pages of the site from files beside docs/, and lead links to them; MkDocs calls these functions."""

import json
import posixpath
import re
from html import escape
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

HOME = Path(__file__).parents[1]
# Pages of the site by their files in the repository. README.md of the repository is the site's first page.
BESIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "report-a-hole.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/LOG.md": "benchmark-log.md",
    "docs/notebook.ipynb": "notebook.md",
}
FIRST = {"README.md": "docs/README.md", "docs/": "docs/README.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)((?:#[^)\s]*)?)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie beside docs/."""
    for source, page in BESIDE.items():
        path = HOME / source
        how = {"content": as_page(path)} if path.suffix == ".ipynb" else {"abs_src_path": str(path)}
        files.append(File.generated(config, page, **how))
    return files


def as_page(notebook: Path) -> str:
    """Return a notebook as Markdown: its texts, its code, and what came out of it when it was run."""
    parts: list[str] = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        lines: list[str] = []
        for output in cell.get("outputs", ()):
            data = {kind: "".join(content) for kind, content in output.get("data", {}).items()}
            if shown := _drawn(data):
                parts += [_block(lines), shown] if lines else [shown]
                lines = []
            else:
                lines.append(data.get("text/plain") or "".join(output.get("text", "")))
        if lines:
            parts.append(_block(lines))
    return "\n\n".join(parts) + "\n"


def _drawn(data: dict[str, str]) -> str:
    """Return an output that is more than text, as HTML."""
    if "image/png" in data:
        return f'<img alt="{escape(data["text/plain"])}" src="data:image/png;base64,{data["image/png"].strip()}">'
    page = data.get("text/html", "")
    return f"<div>\n{page}\n</div>" if "<table" in page or "<progress" in page else ""


def _block(lines: list[str]) -> str:
    return "```text\n" + "\n".join(line.rstrip("\n") for line in lines) + "\n```"


def on_page_markdown(text: str, page: Any, config: Any, files: Any) -> str:
    """Lead links to pages of the site; a link to any other file of the repository becomes its name."""
    place = page.file.src_uri
    source = next((source for source, made in BESIDE.items() if made == place), f"docs/{place}")

    def moved(link: re.Match[str]) -> str:
        mark, words, target, anchor = link.groups()
        if re.match(r"\w+:", target):
            return link[0]
        goal = posixpath.normpath(posixpath.join(posixpath.dirname(source), target)) + "/" * target.endswith("/")
        goal = FIRST.get(goal, goal)
        made = BESIDE.get(goal) or (goal.removeprefix("docs/") if goal.startswith("docs/") else None)
        if made is None:
            return words
        return f"{mark}[{words}]({posixpath.relpath(made, posixpath.dirname(place) or '.')}{anchor})"

    return LINK.sub(moved, text)
