"""Count the lines of flows, tasks and resnet_core by kind: `python -m tests.weight [ROOT]`."""

import ast
import sys
from collections import Counter
from pathlib import Path

WINGS = ("flows", "tasks", "resnet_core")
SCOPES = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def weigh(source: str) -> Counter[str]:
    """Count the lines of a Python file: code, docstring, comment, import and blank."""
    kinds: dict[int, str] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, SCOPES) and ast.get_docstring(node, clean=False) is not None:
            kinds |= dict.fromkeys(_lines(node.body[0]), "docstring")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            kinds |= dict.fromkeys(_lines(node), "import")
    count: Counter[str] = Counter()
    for number, line in enumerate(source.splitlines(), 1):
        text = line.strip()
        rest = "blank" if not text else "comment" if text.startswith("#") else "code"
        count[kinds.get(number, rest)] += 1
    return count


def _lines(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


if __name__ == "__main__":
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    files = [path for wing in WINGS for path in (root / wing).rglob("*.py")]
    total = sum((weigh(path.read_text(encoding="utf-8")) for path in files), Counter[str]())
    print(f"{total.total():,} lines in {len(files)} files:", ", ".join(f"{k} {n:,}" for k, n in total.most_common()))  # noqa: T201
