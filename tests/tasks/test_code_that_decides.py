"""Outcomes are reused while the code that decides them is the same: none of it is left out of the lists."""

import ast
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from tasks import engine, evaluate, features, held_out, learning, plan_batch

# Modules that those import, and why each decides nothing of its own.
NEUTRAL = {
    "augment": "for features: the names of a choice",
    "catalog": "names of columns",
    "classifier": "in a training it validates; in features it is a record",
    "data_checks": "formats a line",
    "data_summary": "formats a line",
    "encryption": "the same bytes come out",
    "errors": "what is raised",
    "export_formats": "whether a package is there",
    "files": "the same bytes come out",
    "fit": "for an evaluation: a record",
    "integrity": "formats a line",
    "machine": "describes",
    "paper": "draws",
    "preprocessing": "part of the shards' digest",
    "quiet": "swallows what libraries print",
    "shards": "part of the shards' digest",
    "sources": "part of a batch's listing",
    "training_state": "the same bits come out",
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
    missing = set().union(*map(imported, LISTS[of])) - listed - NEUTRAL.keys()
    assert not missing, "add them to the list, or say in NEUTRAL why they decide nothing"
