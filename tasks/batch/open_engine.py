"""A chosen engine, ready to run, in whichever process: from the registry's and the store's files."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from threading import Lock

from resnet_core.inference.engines import Engine, open_compiled, open_file, open_torch
from resnet_core.model.classifier import Classifier
from resnet_core.storage.files import as_local
from resnet_core.storage.integrity import DamagedVersionError, file_digest
from tasks.batch.values import EngineChoice
from tasks.registry.int8_file import int8_file
from tasks.registry.versions import load_classifier
from tasks.values import ModelVersion


def open_engine(
    choice: EngineChoice, model: ModelVersion, tracking_uri: str, device: str | Classifier = "auto"
) -> Engine:
    """The engine, ready to run; a process opens it once. Raises DamagedVersionError where its file is not the
    one that was tried.

    device: the version is loaded for, or the version's classifier itself.
    """
    classifier = load_classifier(tracking_uri, model, device) if isinstance(device, str) else device
    how = replace(choice, speed=0.0, trials=())
    with _opening:
        return _open(how, model, tracking_uri, classifier)


_opening = Lock()


@lru_cache(maxsize=2)  # the trial's last two; what is chosen is opened again only if it was an earlier one
def _open(choice: EngineChoice, model: ModelVersion, tracking_uri: str, classifier: Classifier) -> Engine:
    match choice.name:
        case "torch":
            return open_torch(classifier, choice.batch_size, choice.plain)
        case "compile":
            return open_compiled(classifier, choice.batch_size)
    with engine_file(choice, model, tracking_uri) as path:
        return open_file(choice.name, path, len(classifier.classes), choice.workers, choice.batch_size)


@contextmanager
def engine_file(choice: EngineChoice, model: ModelVersion, tracking_uri: str) -> Iterator[Path]:
    """A local file of the digest that was chosen."""
    if choice.file is None:
        with int8_file(tracking_uri, model, choice.digest) as path:
            yield path
        return
    with as_local(choice.file) as path:
        if not path.exists() or file_digest(path) != choice.digest:
            raise DamagedVersionError(
                f"{choice.file} is not the file that was tried. Delete {choice.file.parent}, and run the batch again."
            )
        yield path
