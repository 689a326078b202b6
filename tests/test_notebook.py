"""docs/notebook.ipynb runs from top to bottom, and shows what its stored outputs show."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from docs.notebook import PAGE, run

pytestmark = pytest.mark.docs
HEADING = re.compile(r"<(?:th|b)>(.*?)</", re.DOTALL)


def shown(book: dict[str, Any]) -> list[list[str]]:
    """The headings and rows of each cell's result, and its pictures; numbers differ between processors."""
    cells = []
    for cell in book["cells"]:
        found = []
        for output in cell.get("outputs", ()):
            page = "".join(output.get("data", {}).get("text/html", ""))
            found += ["picture"] * (("image/png" in output.get("data", {})) + page.count('src="data:image/png'))
            found += [re.sub(r"[\d.,]+", "0", text) for text in HEADING.findall(page)]
        cells.append(found)
    return cells


def test_every_cell_runs_and_shows_what_the_page_shows(tmp_path: Path) -> None:
    pytest.importorskip("ipykernel", reason="the extra [docs] is not installed: make docs")
    now, stored = run(tmp_path), json.loads(PAGE.read_text(encoding="utf-8"))
    assert shown(now) == shown(stored), "run `python -m docs.notebook`"
    results = [text for cell in shown(now) for text in cell]
    assert results.count("picture") == 3
    assert {"metric", "verdict", "mean confidence", "reason"} <= set(results)
    text = json.dumps(now)
    assert '<progress max=\\"1\\" value=' in text
    assert "Error" not in text.replace("Errors", "")
