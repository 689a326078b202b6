"""The plan of the house holds: small files, small wings, short parameter lists, no public name without a reader."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
FLOORS = ("flows", "tasks", "resnet_core")
MOST_LINES, MOST_FILES, MOST_PARAMETERS = 350, 12, 6
READERS = (*FLOORS, "tests", "benchmarks", "docs", "data")


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (HOME / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(HOME).as_posix()


@pytest.mark.parametrize("path", modules(*FLOORS), ids=name_of)
def test_a_file_is_one_idea(path: Path) -> None:
    assert path.read_text(encoding="utf-8").count("\n") <= MOST_LINES


@pytest.mark.parametrize("wing", sorted({path.parent for path in modules(*FLOORS)}), ids=name_of)
def test_a_wing_has_few_rooms_and_a_door(wing: Path) -> None:
    assert len([path for path in wing.glob("*.py") if path.name != "__init__.py"]) <= MOST_FILES
    tree = ast.parse((wing / "__init__.py").read_text(encoding="utf-8"))
    assert len(tree.body) == 1, "a wing's __init__.py is a docstring and imports nothing"
    assert ast.get_docstring(tree)


@pytest.mark.parametrize("path", modules("flows", "tasks"), ids=name_of)
def test_parameter_lists_are_short_but_for_the_users_own(path: Path) -> None:
    """Flows and commands are excepted: their parameters are the user's form."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and not _is_a_form(node):
            arguments = node.args
            count = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
            first = arguments.args[0].arg if arguments.args else ""
            assert count - (first in ("self", "cls")) <= MOST_PARAMETERS, f"{name_of(path)}: {node.name}"


def _is_a_form(node: ast.FunctionDef) -> bool:
    return any(re.search(r"\bflow\b|\bcommand\b", ast.unparse(decorator)) for decorator in node.decorator_list)


def _used_names(tree: ast.AST) -> Iterator[str]:
    """Yield imported names, attributes, and words of strings, which tests patch and commands run by."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.split(r"[.:\s]", node.value)


def test_a_name_that_no_other_file_uses_is_private() -> None:
    users: dict[str, set[Path]] = defaultdict(set)
    public: list[tuple[Path, str]] = []
    for path in modules(*READERS):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name in _used_names(tree):
            users[name].add(path)
        if path.relative_to(HOME).parts[0] in FLOORS:
            public += [
                (path, node.name)
                for node in tree.body
                if isinstance(node, ast.FunctionDef | ast.ClassDef)
                if not node.name.startswith("_") and not (isinstance(node, ast.FunctionDef) and _is_a_form(node))
            ]
    for line in ((HOME / file).read_text(encoding="utf-8") for file in ("pyproject.toml", "prefect.yaml")):
        for name in re.split(r"[\s.:\"]", line):
            users[name].add(HOME)
    lonely = [f"{name_of(path)}: {name}" for path, name in public if not users[name] - {path}]
    assert not lonely


def test_no_file_of_the_code_that_goes_into_a_version_is_empty() -> None:
    """MLflow uploads an empty file in chunks, without a length. Some proxies wait for its end for ever."""
    files = [path for path in (HOME / "resnet_core").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert [path.name for path in files if not path.stat().st_size] == []
