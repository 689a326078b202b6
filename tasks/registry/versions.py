"""MLflow's model registry: names, versions, and the aliases `challenger` and `champion`."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow.entities.model_registry import ModelVersion as RegisteredVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from resnet_core.errors import UserError, nearest
from tasks.registry.integrity import FILES as FILES
from tasks.registry.integrity import SIGNATURE as SIGNATURE
from tasks.registry.integrity import verified_folder
from tasks.registry.runs import client
from tasks.settings import Settings
from tasks.values import ModelVersion

if TYPE_CHECKING:  # PyTorch takes seconds to import, and is not needed to move an alias
    from resnet_core.drift.reference import Reference
    from resnet_core.model.classifier import Classifier


def reference_of(tracking_uri: str, model: ModelVersion) -> Reference | None:
    """The version's own, its files checked; None for a version that has none."""
    return _reference_of(tracking_uri, model, Settings().verify_key)


@lru_cache(maxsize=4)
def _reference_of(tracking_uri: str, model: ModelVersion, verify_key: str | None) -> Reference | None:
    """A version never changes, so a process checks and loads it once."""
    from resnet_core.drift.reference import load_reference

    with tempfile.TemporaryDirectory() as scratch:
        folder = verified_folder(tracking_uri, model, verify_key, Path(scratch))
        return load_reference(folder / ARTIFACTS / MODEL_FOLDER)


CHAMPION = "champion"
CHALLENGER = "challenger"
CHECKPOINT = "grayline.checkpoint"  # tag: the digest of the training it came from
GATE = "grayline.gate"  # tag: what the gate said
GATE_CHECKS, GATE_SETTINGS = "grayline.gate.checks", "grayline.gate.settings"  # tags: its table and limits, JSON
SINCE, REASON = "grayline.champion_since", "grayline.champion_reason"  # tags of a champion
BEFORE = "grayline.champion_before"  # tag: the version that it took over from
ROLLED_BACK = "grayline.rolled_back"  # tag: when and why it was taken back
PROMOTED = "grayline.promoted"  # tag of a training's run: true, false, rolled back
COMMIT, LOCK, SEED = "grayline.commit", "grayline.lock", "grayline.seed"  # tags: what it was trained with
CATALOG, SHARDS = "grayline.catalog", "grayline.shards"  # tags: digests of what it was trained on
CATALOG_VERSION = "grayline.catalog_version"
CALIBRATION = "grayline.calibration"  # tag: the digest of its calibration.json, or `none`
REFERENCE = "grayline.reference"  # tag: the digest of its reference.json, or `none`
INT8 = "grayline.int8"  # tag: what its int8 file costs of accuracy, whether the gate allows it, its digest; JSON
REPRODUCED = "grayline.reproduced"  # tag: when it was trained again, and what came of it
MONITOR = "grayline.monitor"  # tag: what new labelled images said last
CLASSIFIER = "classifier"  # the pyfunc's name for the folder that Classifier.load reads
ARTIFACTS, MODEL_FOLDER = "artifacts", "model"  # where MLflow keeps it, below the version's folder
LINEAGE = "lineage.json"  # beside it: all that it takes to train it again


def value_of(version: RegisteredVersion) -> ModelVersion:
    return ModelVersion(version.name, str(version.version), version.run_id or "")


def by_alias(tracking_uri: str, name: str, alias: str) -> ModelVersion | None:
    """The version that the alias points to, None when there is no such alias or model."""
    try:
        return value_of(client(tracking_uri).get_model_version_by_alias(name, alias))
    except MlflowException:
        return None


def checkpoint_of(tracking_uri: str, model: ModelVersion) -> str:
    """The digest of the training that a version came from."""
    return str(client(tracking_uri).get_model_version(model.name, model.version).tags.get(CHECKPOINT, ""))


def resolve(tracking_uri: str, reference: str | None, field: str = "--model") -> ModelVersion:
    """`NAME@ALIAS`, `NAME/VERSION`, `NAME` (its champion), or None (the only model's champion).

    Raises UserError, about the option or argument `field`, that lists what there is.
    """
    registry = client(tracking_uri)
    names = [model.name for model in registry.search_registered_models()]
    if not names:
        raise UserError(f"{field}: no model is registered yet. Run `grayline retrain --dataset FILE.yaml` first.")
    if reference is None:
        if len(names) > 1:
            raise UserError(f"{field}: say which of {', '.join(names)}, as in {names[0]}@{CHAMPION}.")
        reference = names[0]
    name, version, alias = _split(reference)
    if name not in names:
        raise UserError(f"{field}: no model {name!r}.{nearest(name, names)} There are: {', '.join(names)}.")
    if version:
        return value_of(find_version(registry, name, version))
    found = by_alias(tracking_uri, name, alias)
    if found is None:
        known = sorted(registry.get_registered_model(name).aliases)
        hint = nearest(alias, known) or (f" It has: {', '.join(known)}." if known else " It has none yet.")
        raise UserError(f"{field}: model {name!r} has no alias {alias!r}.{hint}")
    return found


def _split(reference: str) -> tuple[str, str | None, str]:
    reference = reference.removeprefix("models:/")
    if "/" in reference:
        name, version = reference.split("/", 1)
        return name, version, CHAMPION
    name, _, alias = reference.partition("@")
    return name, None, alias or CHAMPION


def find_version(registry: MlflowClient, name: str, version: str) -> RegisteredVersion:
    """Raises UserError when there is no such version."""
    found = {str(v.version): v for v in registry.search_model_versions(f"name = '{name}'")}
    if version not in found:
        there = ", ".join(sorted(found, key=int)) or "none"
        raise UserError(f"model {name!r} has no version {version!r}. It has: {there}.")
    return found[version]


def versions_of(tracking_uri: str, name: str) -> dict[str, RegisteredVersion]:
    """All versions of a model, by their numbers."""
    return {str(v.version): v for v in client(tracking_uri).search_model_versions(f"name = '{name}'")}


def load_classifier(tracking_uri: str, model: ModelVersion, device: str) -> Classifier:
    """The version's network, ready to predict. Raises DamagedVersionError when its files are not those
    that were registered, or are not signed by the owner of GRAYLINE_VERIFY_KEY where that is set."""
    return _load_classifier(tracking_uri, model, device, Settings().verify_key)


@lru_cache(maxsize=4)
def _load_classifier(tracking_uri: str, model: ModelVersion, device: str, verify_key: str | None) -> Classifier:
    """A version never changes, so a process checks and loads it once."""
    from resnet_core.model.classifier import Classifier

    folder = verified_folder(tracking_uri, model, verify_key)
    return Classifier.load(folder / ARTIFACTS / MODEL_FOLDER, device)
