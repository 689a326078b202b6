"""Handlers of errors: whatever may catch an error of MLflow, Prefect, fsspec or DuckDB says why it may.

An error is not an answer. A handler that takes one for an answer says so on its line, or on the first below it. One
that ends by raising answers nothing. `suppress` is such a handler.
"""

import ast
import builtins
from collections.abc import Iterator
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
# Whose errors tell of a server, a store or a database: theirs, and those of the libraries that they ask by.
LIBRARIES = {"mlflow", "prefect", "fsspec", "duckdb", "sqlalchemy", "sqlite3", "urllib", "http", "httpx", "requests"}


def foreign(tree: ast.Module) -> set[str]:
    """Return the names of a module that are of the libraries, or were imported from them."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {(a.asname or a.name).split(".")[0] for a in node.names if a.name.split(".")[0] in LIBRARIES}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LIBRARIES:
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def may_be_theirs(caught: ast.expr | None, names: set[str]) -> bool:
    """Return whether the errors of a handler may be those of the libraries: fsspec and sockets raise OSErrors."""
    if caught is None:
        return True
    if isinstance(caught, ast.Tuple):
        return any(may_be_theirs(each, names) for each in caught.elts)
    words = ast.unparse(caught).split(".")
    known = getattr(builtins, words[0], None)
    general = known in (Exception, BaseException) or (isinstance(known, type) and issubclass(known, OSError))
    return general or words[0] in names


def without_reason(source: str) -> Iterator[int]:
    """Yield the lines of handlers that may catch such an error and have no comment."""
    tree, lines = ast.parse(source), source.splitlines()
    names = foreign(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            theirs = may_be_theirs(node.type, names) and not isinstance(node.body[-1], ast.Raise)
            place = node.lineno
        elif isinstance(node, ast.With):
            calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
            hushed = [arg for call in calls if ast.unparse(call.func).endswith("suppress") for arg in call.args]
            theirs, place = any(may_be_theirs(each, names) for each in hushed), node.lineno
        else:
            continue
        if theirs and not any("#" in line for line in lines[place - 1 : node.body[0].lineno]):
            yield place


@pytest.mark.parametrize("floor", ["flows", "tasks", "resnet_core", "grayline"])
def test_every_handler_of_their_errors_has_its_reason(floor: str) -> None:
    files = sorted((HOME / floor).rglob("*.py"))
    bare = [f"{path.relative_to(HOME)}:{line}" for path in files for line in without_reason(path.read_text())]
    assert not bare, f"say in a comment why the error is an answer, or narrow it: {', '.join(bare)}"


@pytest.mark.parametrize(
    "caught",
    ["", " OSError", " (ValueError, ConnectionError)", " MlflowException as e", " duckdb.Error", " error.HTTPError"],
)
def test_a_bare_handler_is_found(caught: str) -> None:
    head = "import duckdb\nfrom urllib import error\nfrom mlflow.exceptions import MlflowException\ntry:\n    f()\n"
    assert [*without_reason(f"{head}except{caught}:\n    g()\n")] == [6]
    assert not [*without_reason(f"{head}except{caught}:  # no such file is an answer\n    g()\n")]
    assert not [*without_reason(f"{head}except{caught}:\n    # no such file is an answer\n    g()\n")]
    assert not [*without_reason(f"{head}except{caught}:\n    raise ValueError('said on')\n")]
    assert not [*without_reason("try:\n    f()\nexcept (ValueError, ImportError):\n    g()\n")]
    assert [*without_reason("with suppress(ValueError, OSError):\n    g()\n")] == [1]
