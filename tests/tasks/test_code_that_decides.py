"""Outcomes are reused while the code that decides them is the same: none of it is left out of the lists."""

import ast
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from tasks import engine, evaluate, features, held_out, learning, plan_batch

# Modules that those import, and why each decides nothing of its own.
NEUTRAL = {
    "encryption": "the same bytes come out",
    "errors": "what is raised",
    "export_formats": "whether a package is there",
    "files": "the same bytes come out",
    "machine": "describes",
    "preprocessing": "part of the shards' digest, and of the version",
    "quiet": "swallows what libraries print",
    "shards": "part of the shards' digest",
}
# The same, where it holds for one list alone.
NEUTRAL_FOR = {
    "training": {
        "classifier": "validates",
        "heap": "the same bits come out",
        "training_state": "the same bits come out",
    },
    "batches": {"sources": "part of a batch's listing"},
    "features": {"augment": "the names of a choice", "classifier": "a record"},
    "evaluations": {
        "catalog": "names of columns",
        "data_checks": "formats a line",
        "data_summary": "formats a line",
        "fit": "a record",
        "integrity": "formats a line",
        "paper": "draws",
    },
}
LISTS: dict[str, Sequence[ModuleType]] = {
    "training": learning.LEARNING,
    "scores": held_out.SCORING,
    "engine trials": engine.CODE,
    "batches": plan_batch.CODE,
    "features": features.CODE,
    "evaluations": evaluate.MEASURING,
}


def imported(module: ModuleType) -> set[str]:
    """Names of the modules of `resnet_core` that it imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "resnet_core":
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("resnet_core."):
            found.add((node.module or "").split(".")[1])
    return found


@pytest.mark.parametrize("of", LISTS)
def test_what_the_code_that_decides_imports_is_listed_too(of: str) -> None:
    listed = {module.__name__.rpartition(".")[2] for module in LISTS[of]}
    missing = set().union(*map(imported, LISTS[of])) - listed - NEUTRAL.keys() - NEUTRAL_FOR.get(of, {}).keys()
    assert not missing, "add them to the list, or say in NEUTRAL why they decide nothing"
