"""Hold the mechanical part of the rule of words: `python -m tests.words [PATH ...]`.

A sentence has at most 20 words, does not open with what, one, each, some, of or whether, and never says "is no".
Docstrings and comments of Python files are held to it, and the sentences of Markdown pages to the openings.
There are no exceptions.
"""

import ast
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

MOST_WORDS = 20
PLACES = ("grayline", "flows", "tasks", "resnet_core", "benchmarks", "data", "README.md", "CONTRIBUTING.md", "docs")
OPENING = re.compile(r"(What|One|Each|Some|Of|Whether)\b(?!-)")
IS_NO = re.compile(r"\bis no\b(?! longer)|(?<!here )\b(are|was|were) no\b(?! longer)")
SENTENCE = re.compile(r"(?<=[.!?:;])\s+|\n\s*\n|\n\s*[-*|]\s")
TABLE_ROW = re.compile(r"\S {2,}\S|^\s*\|", re.MULTILINE)
CODE_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def sentences(text: str) -> Iterator[str]:
    """Split text; rows of tables are left out."""
    lines = ["" if TABLE_ROW.search(line) else line for line in text.splitlines()]
    for sentence in SENTENCE.split("\n".join(lines)):
        if sentence.strip():
            yield " ".join(sentence.split())


def faults(text: str, most: int = MOST_WORDS) -> Iterator[str]:
    """Yield a message for every sentence that breaks the rule."""
    for sentence in sentences(text):
        words = len(sentence.split())
        if words > most:
            yield f"{words} words: {sentence}"
        elif OPENING.match(sentence):
            yield f"opening: {sentence}"
        elif IS_NO.search(sentence):
            yield f"'is no': {sentence}"


def python_faults(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the message of every fault in docstrings and whole-line comments."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield from ((node.body[0].lineno, fault) for fault in faults(text))
    with path.open("rb") as file:
        for line, text in comments(file.readline):
            yield from ((line, fault) for fault in faults(text))


def comments(readline: object) -> Iterator[tuple[int, str]]:
    """Yield comments with their first line; whole-line comments that follow each other are one text."""
    block: list[str] = []
    last = 0
    for token in tokenize.tokenize(readline):  # type: ignore[arg-type]
        if token.type != tokenize.COMMENT:
            continue
        line, text = token.start[0], token.string.lstrip("#").strip()
        whole = token.line.lstrip().startswith("#")
        if block and not (whole and line == last + 1):
            yield last - len(block) + 1, "\n".join(block)
            block = []
        if whole:
            block.append(text)
            last = line
        else:
            yield line, text
    if block:
        yield last - len(block) + 1, "\n".join(block)


def markdown_faults(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the faults of a page; code blocks and tables are left out."""
    text = CODE_BLOCK.sub("", path.read_text(encoding="utf-8"))
    yield from ((0, fault) for fault in faults(text))


def main() -> None:
    """Print every fault; exit with 1 if there is any."""
    found = 0
    for place in map(Path, sys.argv[1:] or PLACES):
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            rows = {".py": python_faults, ".md": markdown_faults}.get(path.suffix)
            if rows is None or path.name == "LOG.md":
                continue
            for line, fault in rows(path):
                found += 1
                print(f"{path}:{line}: {fault}")  # noqa: T201
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
