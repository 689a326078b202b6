"""Load the classifier of a version's folder, and read what a version is called by. MLflow is not needed for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_core.storage.digest import GONE
from tasks.access.modes import keep_confidential
from tasks.registry.contents import check_network
from tasks.registry.integrity import readable, refusal
from tasks.store import LINEAGE
from tasks.values import ModelVersion

if TYPE_CHECKING:
    from resnet_core.model.classifier import Classifier

CHAMPION = "champion"
ARTIFACTS, MODEL_FOLDER = "artifacts", "model"  # where MLflow keeps it, below the version's folder


def split_reference(reference: str) -> tuple[str, str | None, str]:
    """Return name, version and alias of `NAME@ALIAS`, `NAME/VERSION` or `NAME`."""
    reference = reference.removeprefix("models:/")
    if "/" in reference:
        name, version = reference.split("/", 1)
        return name, version, CHAMPION
    name, _, alias = reference.partition("@")
    return name, None, alias or CHAMPION


def classifier_in(version: Path, model: ModelVersion, device: str) -> tuple[Classifier, bool]:
    """Load from a version's folder, whose files are checked. Returns also whether its data set is confidential.

    Raises DamagedVersionError for a description of something else.
    """
    from resnet_core.model.classifier import Classifier

    with readable(model):
        folder = version / ARTIFACTS
        begun = folder / LINEAGE
        lineage = json.loads(begun.read_text(encoding="utf-8")) if begun.exists() else {}
        confidential = bool(lineage.get("dataset", {}).get("encrypt"))
        if confidential:
            keep_confidential()
        try:
            check_network(folder / MODEL_FOLDER)
        except (*GONE, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            raise refusal(model, f"its description cannot be used ({error})") from None
        return Classifier.load(folder / MODEL_FOLDER, device), confidential
