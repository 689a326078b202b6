"""MLflow's model registry: names, versions, and the aliases `challenger` and `champion`."""

from functools import lru_cache
from pathlib import Path

import mlflow.artifacts
from mlflow.entities.model_registry import ModelVersion as RegisteredVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from resnet_core.classifier import Classifier
from resnet_core.errors import UserError, nearest
from tasks.tracking import client
from tasks.values import ModelVersion

CHAMPION = "champion"
CHALLENGER = "challenger"
CHECKPOINT = "grayline.checkpoint"  # tag: the digest of the training it came from
GATE = "grayline.gate"  # tag: what the gate said
SINCE, REASON = "grayline.champion_since", "grayline.champion_reason"  # tags of a champion
BEFORE = "grayline.champion_before"  # tag: the version that it took over from
ROLLED_BACK = "grayline.rolled_back"  # tag: when and why it was taken back
CLASSIFIER = "classifier"  # the pyfunc's name for the folder that Classifier.load reads
MODEL_FOLDER = "model"  # that folder's own name, which MLflow keeps below artifacts/


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


def resolve(tracking_uri: str, reference: str | None) -> ModelVersion:
    """`NAME@ALIAS`, `NAME/VERSION`, `NAME` (its champion), or None (the only model's champion).

    Raises UserError that lists what there is.
    """
    registry = client(tracking_uri)
    names = [model.name for model in registry.search_registered_models()]
    if not names:
        raise UserError("--model: no model is registered yet. Run `grayline retrain --dataset FILE.yaml` first.")
    if reference is None:
        if len(names) > 1:
            raise UserError(f"--model: say which of {', '.join(names)}, as in {names[0]}@{CHAMPION}.")
        reference = names[0]
    name, version, alias = _split(reference)
    if name not in names:
        raise UserError(f"--model: no model {name!r}.{nearest(name, names)} There are: {', '.join(names)}.")
    if version:
        return value_of(find_version(registry, name, version))
    found = by_alias(tracking_uri, name, alias)
    if found is None:
        known = sorted(registry.get_registered_model(name).aliases)
        hint = nearest(alias, known) or (f" It has: {', '.join(known)}." if known else " It has none yet.")
        raise UserError(f"--model: model {name!r} has no alias {alias!r}.{hint}")
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


@lru_cache(maxsize=4)
def load_classifier(tracking_uri: str, model: ModelVersion, device: str) -> Classifier:
    """The version's network, ready to predict. A version never changes, so a process loads it once."""
    source = client(tracking_uri).get_model_version_download_uri(model.name, model.version)
    folder = mlflow.artifacts.download_artifacts(
        artifact_uri=f"{source.rstrip('/')}/artifacts/{MODEL_FOLDER}", tracking_uri=tracking_uri
    )
    return Classifier.load(Path(folder), device)
