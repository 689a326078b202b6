"""Make pages of the site from files beside docs/, and lead links to them; MkDocs calls these functions."""

import posixpath
import re
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
}
FIRST = {"README.md": "docs/README.md", "docs/": "docs/README.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)((?:#[^)\s]*)?)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie beside docs/."""
    for source, page in BESIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(HOME / source)))
    return files


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
