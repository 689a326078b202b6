"""The engine of a batch: the fastest that decides as the gate saw it. A short trial on this machine tells.

A trial takes seconds to minutes, so an engine is tried only for batches that are long enough. Outcomes are kept in
the store, in `engines/<model>-<files>-<digest>/`. `files` is the digest of the version's files; the other covers
processor, packages, code and number of workers. The ONNX file lies beside them.
"""

import logging
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE

import resnet_core.device
import resnet_core.export
import resnet_core.inference
import resnet_core.model
from resnet_core.device import arithmetic, describe, this_machine
from resnet_core.errors import UserError
from resnet_core.inference.engines import check_engine
from resnet_core.model.classifier import Classifier
from resnet_core.storage.digest import digest_of, source_digest
from tasks.artifacts import publish_table
from tasks.batch.engine_trials import Surroundings, all_trials, fastest
from tasks.batch.engine_trials import open_engine as open_engine
from tasks.batch.values import EngineChoice
from tasks.registry.int8_file import allowed_int8, why_not
from tasks.runner import workers
from tasks.settings import Settings
from tasks.values import ModelVersion
from tasks.workspace import Workspace

log = logging.getLogger("grayline")

_PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "openvino")
_CODE = (resnet_core.device, resnet_core.export, resnet_core.inference, resnet_core.model)


@task(cache_policy=NO_CACHE)
def choose_engine(
    model: ModelVersion,
    classifier: Classifier,
    sample: Callable[[], NDArray[np.uint8]],
    files: int,
    wanted: str | None,
    here: Workspace,
) -> EngineChoice:
    """Choose the engine for a batch of so many files.

    Raises UserError for a named engine that is missing, not made for this device, or does not agree.

    sample: returns real images of the batch, uint8 [M, S, S]; called only for trials. wanted: an engine's name,
    `auto`, or None for the setting GRAYLINE_ENGINE.
    """
    named = Settings().engine if wanted is None else wanted
    option = "GRAYLINE_ENGINE" if wanted is None else "--engine"
    name = None if named == "auto" else check_engine(option, named, classifier.device)
    threads = workers()
    folder = here.store.engines() / f"{model.name}-{digest_of(model.files)}-{_surroundings_digest(classifier, threads)}"
    around = Surroundings(model, classifier, here.tracking_uri, sample, threads, folder)
    if name == "int8" and not allowed_int8(around.tracking_uri, model):
        raise UserError(f"{option} int8: {why_not(around.tracking_uri, model)}")
    trials = all_trials(around, name, files)
    best = trials[name] if name else fastest(around, trials)
    if best.wrong and best.name != "torch":
        raise UserError(f"{option} {best.name}: {best.wrong}. Use auto, or another engine.")
    choice = around.choice(best, trials=tuple(trials.values()))
    report(choice)
    return choice


def _surroundings_digest(classifier: Classifier, workers: int) -> str:
    """Return the digest of everything that may change the speed of an engine or its answers."""
    machine = this_machine()
    where = (arithmetic(classifier.device), machine.instructions, machine.cores, describe(classifier.device), workers)
    return digest_of(where, [_installed(name) for name in _PACKAGES], source_digest(*_CODE))


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def report(choice: EngineChoice) -> None:
    others = [f"{t.name} {t.wrong or f'{t.ratio:.2f} times torch'}" for t in choice.trials if t.name != "torch"]
    log.info(
        "engine      %s, about %s images/s%s", choice.name, f"{choice.speed:,.0f}", "".join(f"; {o}" for o in others)
    )
    publish_table(
        [{"engine": t.name, "images/s": round(t.speed), "times torch": round(t.ratio, 2),
          "largest difference": f"{t.difference:.1g}", "decided otherwise": f"{t.differing} of {t.compared}",
          "why not": t.wrong} for t in choice.trials],
        key="engine",
        description=f"scored by {choice.name}",
    )  # fmt: skip
