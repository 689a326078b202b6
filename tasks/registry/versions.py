"""Versions in MLflow's model registry: their tags and aliases; find one, load its classifier or reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from mlflow.entities.model_registry import ModelVersion as RegisteredVersion
from mlflow.exceptions import MlflowException
from mlflow.store.entities.paged_list import PagedList

from resnet_core.errors import UserError, nearest, some_of
from tasks.registry.integrity import FILES as FILES
from tasks.registry.integrity import SIGNATURE as SIGNATURE
from tasks.registry.integrity import verified_folder
from tasks.registry.loading import ARTIFACTS as ARTIFACTS
from tasks.registry.loading import CHAMPION as CHAMPION
from tasks.registry.loading import MODEL_FOLDER as MODEL_FOLDER
from tasks.registry.loading import classifier_in, split_reference
from tasks.registry.patience import RegistryError, says_missing
from tasks.registry.runs import client
from tasks.settings import Settings, known_keys
from tasks.values import ModelVersion

if TYPE_CHECKING:  # PyTorch takes seconds to import, and is not needed to move an alias
    from resnet_core.drift.reference import Reference
    from resnet_core.inference.answers import Answers
    from resnet_core.model.classifier import Classifier


def reference_of(tracking_uri: str, model: ModelVersion) -> Reference | None:
    """Return the reference of the version's training data after a check of its files; None for older versions."""
    return _reference_of(tracking_uri, model, Settings().verify_key)


@lru_cache(maxsize=4)
def _reference_of(tracking_uri: str, model: ModelVersion, verify_key: str | None) -> Reference | None:
    """Check and load once a process: a version never changes."""
    from resnet_core.drift.reference import load_reference

    with verified_folder(tracking_uri, model, verify_key) as folder:
        return load_reference(folder / ARTIFACTS / MODEL_FOLDER)


def answers_of(tracking_uri: str, model: ModelVersion, classifier: Classifier) -> Answers:
    """Return the version's kept answers after a check of its files. Raises NoAnswersError if none can be used."""
    from resnet_core.inference.answers import load_answers

    with verified_folder(tracking_uri, model, Settings().verify_key) as version:
        folder, size = version / ARTIFACTS / MODEL_FOLDER, classifier.preprocessing.size
        return load_answers(folder, classifier.classes, size, known_keys(Settings()))


CHALLENGER = "challenger"
CHECKPOINT = "grayline.checkpoint"  # tag: the digest of the training it came from
GATE = "grayline.gate"  # tag: the decision of the gate
GATE_CHECKS, GATE_SETTINGS = "grayline.gate.checks", "grayline.gate.settings"  # tags: its checks and limits, JSON
SINCE, REASON = "grayline.champion_since", "grayline.champion_reason"  # tags of a champion
BEFORE = "grayline.champion_before"  # tag: the champion that it replaced
ROLLED_BACK = "grayline.rolled_back"  # tag: when and why it was rolled back
PROMOTED = "grayline.promoted"  # tag of a training's run: true, false, rolled back
COMMIT, LOCK, SEED = "grayline.commit", "grayline.lock", "grayline.seed"  # tags: what it was trained with
CATALOG, SHARDS = "grayline.catalog", "grayline.shards"  # tags: digests of what it was trained on
CATALOG_VERSION = "grayline.catalog_version"
CALIBRATION = "grayline.calibration"  # tag: the digest of its calibration.json, or `none`
REFERENCE = "grayline.reference"  # tag: the digest of its reference.json, or `none`
NOVELTY = "grayline.novelty"  # tag: the digest of its novelty.safetensors, or `none`
INT8 = "grayline.int8"  # tag: JSON: loss of accuracy, allowed by the gate or not, digest of the file
REPRODUCED = "grayline.reproduced"  # tag: when it was trained again, and the verdict
MONITOR = "grayline.monitor"  # tag: the last verdict of new labelled images
CLASSIFIER = "classifier"  # the pyfunc's name for the folder that Classifier.load reads


_Entry = TypeVar("_Entry")
_INVALID = "INVALID_PARAMETER_VALUE"
_SHOWN = 20  # names of models in a message; a shared server may have hundreds


def value_of(version: RegisteredVersion) -> ModelVersion:
    """Return the version, with what identifies its files."""
    files = version.tags.get(FILES) or version.source or ""
    return ModelVersion(version.name, str(version.version), version.run_id or "", files)


def by_alias(tracking_uri: str, name: str, alias: str) -> ModelVersion | None:
    """Return the version that the alias points to. None if MLflow says that the model or the alias does not exist.

    Raises RegistryError where it does not answer.
    """
    registry = client(tracking_uri)
    try:
        model = registry.get_registered_model(name)
        if model.name != name:
            raise RegistryError(f"MLflow at {tracking_uri} gave an empty answer for the model {name!r}.")
        number = model.aliases.get(alias)
        return value_of(registry.get_model_version(name, str(number))) if number else None
    except MlflowException as error:  # the server's own word, or a defect
        if says_missing(error):
            return None
        raise


def checkpoint_of(tracking_uri: str, model: ModelVersion) -> str:
    """Return the digest of the training that made the version."""
    return str(client(tracking_uri).get_model_version(model.name, model.version).tags.get(CHECKPOINT, ""))


def resolve(tracking_uri: str, reference: str | None, field: str = "--model") -> ModelVersion:
    """Find `NAME@ALIAS`, `NAME/VERSION`, `NAME` (its champion), or None (the only model's champion).

    Raises UserError about the option or argument `field`, with the models, versions or aliases that exist.
    """
    if reference is None:
        names = model_names(tracking_uri)
        if not names:
            raise UserError(f"{field}: {_none_yet(tracking_uri)}")
        if len(names) > 1:
            raise UserError(f"{field}: name one of {_listed(names)}, as in {names[0]}@{CHAMPION}, of {tracking_uri}.")
        reference = names[0]
    name, version, alias = split_reference(reference)
    check_model(tracking_uri, name, field)
    if version:
        return find_version(tracking_uri, name, version)
    model = by_alias(tracking_uri, name, alias)
    if model is None:
        aliases = sorted(client(tracking_uri).get_registered_model(name).aliases)
        hint = nearest(alias, aliases) or (f" It has: {', '.join(aliases)}." if aliases else " It has none.")
        if alias in (CHAMPION, CHALLENGER):
            hint += f" `grayline promote {name} VERSION` makes a champion; `grayline history {name}` lists them."
        raise UserError(f"{field}: model {name!r} has no alias {alias!r}.{hint} Registry: {tracking_uri}.")
    return model


def check_model(tracking_uri: str, name: str, field: str = "") -> None:
    """Raises UserError, about the option or argument `field`, for a model that does not exist."""
    registry = client(tracking_uri)
    try:
        name.encode()  # MLflow calls it a trouble of its database, which is asked for a minute
        registry.get_registered_model(name)
    except (MlflowException, UnicodeError) as error:  # no model has a name that MLflow does not take
        if getattr(error, "error_code", _INVALID) != _INVALID and not says_missing(error):
            raise
        names = model_names(tracking_uri)
        start = f"{field}: " if field else ""
        if not names:
            raise UserError(f"{start}{_none_yet(tracking_uri)}") from None
        raise UserError(
            f"{start}no model {name!r}.{nearest(name, names)} Registered in {tracking_uri}: {_listed(names)}."
        ) from None


def _none_yet(tracking_uri: str) -> str:
    return (
        f"no model is registered yet in {tracking_uri}. Run `grayline retrain --dataset FILE.yaml` first, "
        "or set GRAYLINE_STORE to the store that has it."
    )


def model_names(tracking_uri: str) -> list[str]:
    """Return the names of all registered models, those of other tools included."""
    registry = client(tracking_uri)
    return [model.name for model in all_pages(lambda token: registry.search_registered_models(page_token=token))]


def _listed(names: Sequence[str]) -> str:
    """Return the names as a list, at most _SHOWN of them."""
    return some_of(names, _SHOWN)


def all_pages(search: Callable[[str | None], PagedList[_Entry]]) -> Iterator[_Entry]:
    """Yield the entries of every page that MLflow answers a search with."""
    token: str | None = None
    while True:
        page = search(token)
        yield from page
        token = page.token
        if not token:
            return


def find_version(tracking_uri: str, name: str, version: str) -> ModelVersion:
    """Return a version by its number. Raises UserError if it does not exist."""
    versions = versions_of(tracking_uri, name)
    if version not in versions:
        numbers = ", ".join(sorted(versions, key=int)) or "none"
        raise UserError(f"model {name!r} has no version {version!r}. It has: {numbers}. Registry: {tracking_uri}.")
    return value_of(versions[version])


def versions_of(tracking_uri: str, name: str) -> dict[str, RegisteredVersion]:
    """Return all versions of a model by their numbers."""
    quote = '"' if "'" in name else "'"  # MLflow's filters have no escape
    registry, condition = client(tracking_uri), f"name = {quote}{name}{quote}"
    pages = all_pages(lambda token: registry.search_model_versions(condition, page_token=token))
    return {str(version.version): version for version in pages}


def load_classifier(tracking_uri: str, model: ModelVersion, device: str) -> Classifier:
    """Return the version's network, ready to predict.

    Raises DamagedVersionError if its files are not those registered, or not signed by GRAYLINE_VERIFY_KEY.
    """
    return _load_classifier(tracking_uri, model, device, Settings().verify_key)[0]


def is_confidential(tracking_uri: str, model: ModelVersion, device: str) -> bool:
    """Return whether the version was trained on an encrypted data set: nothing may show images like those."""
    return _load_classifier(tracking_uri, model, device, Settings().verify_key)[1]


@lru_cache(maxsize=4)
def _load_classifier(
    tracking_uri: str, model: ModelVersion, device: str, verify_key: str | None
) -> tuple[Classifier, bool]:
    """Check and load once a process: a version never changes."""
    with verified_folder(tracking_uri, model, verify_key) as version:
        return classifier_in(version, model, device)
