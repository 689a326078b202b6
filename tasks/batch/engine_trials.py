"""Engine trials on this machine: each engine is tried once, and its outcome is kept in the store."""

import json
import logging
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from upath import UPath

from resnet_core.device import arithmetic
from resnet_core.errors import JobError
from resnet_core.inference import trials as engine_trial
from resnet_core.inference.answers import MOST, Answers, NoAnswersError
from resnet_core.inference.engines import (
    Engine,
    EngineName,
    can_run,
    open_compiled,
    open_file,
    open_torch,
    usual_batch,
    write_file,
)
from resnet_core.model.classifier import Classifier
from resnet_core.storage.digest import DamagedVersionError, file_digest
from resnet_core.storage.files import DamagedFileError, as_local, read_json, write_text, write_whole
from tasks.batch.values import EngineChoice, EngineTrial
from tasks.registry.int8_file import Int8, allowed_int8, int8_file
from tasks.registry.patience import RegistryError
from tasks.registry.versions import answers_of, load_classifier
from tasks.store import ENGINE_FILE, TRIALS
from tasks.values import ModelVersion


def open_engine(
    choice: EngineChoice, model: ModelVersion, tracking_uri: str, device: str | Classifier = "auto"
) -> Engine:
    """Return the engine, ready to run; a process opens it once.

    Another machine than that of the trial checks the engine itself, and takes torch if it decides otherwise.

    device: where to load the version, or its classifier itself. Raises DamagedVersionError if the engine's file is
    not the file that was tried.
    """
    classifier = load_classifier(tracking_uri, model, device) if isinstance(device, str) else device
    how = replace(choice, speed=0.0, trials=())
    with _opening:
        return _open(how, model, tracking_uri, classifier)


_opening = Lock()


@lru_cache(maxsize=2)  # the trial's last two; what is chosen is opened again only if it was an earlier one
def _open(choice: EngineChoice, model: ModelVersion, tracking_uri: str, classifier: Classifier) -> Engine:
    engine = _opened(choice, model, tracking_uri, classifier)
    if choice.machine in ("", arithmetic(classifier.device)):
        return engine
    try:
        _, why = _compare(engine, answers_of(tracking_uri, model, classifier), classifier, choice.allowed)
    except NoAnswersError as error:
        why = f"{error}, and another machine tried it" if choice.name == "int8" else ""
    if not why:
        return engine
    if choice.name == "torch" and choice.plain:
        raise JobError(f"{model}: {why}{_REMEDY}")
    log.warning("engine      %s is not used on %s: %s; torch scores there", choice.name, platform.node(), why)
    plain = replace(choice, name="torch", file=None, digest="", plain=True, allowed=_DIFFERING)
    return replace(_open(plain, model, tracking_uri, classifier), refused=(choice.name, f"on {platform.node()}: {why}"))


def _compare(engine: Engine, wanted: Answers, classifier: Classifier, share: float) -> tuple[int, str]:
    """Return how many decisions differ from the answers, and what is wrong if they are more than the share."""
    differing, most = wanted.differing(engine.run, classifier.calibration.decided), math.ceil(share * len(wanted))
    words = f"{differing} of {len(wanted)} decisions differ from {wanted.whose}, over {most}"
    return differing, words if differing > most else ""


def _opened(choice: EngineChoice, model: ModelVersion, tracking_uri: str, classifier: Classifier) -> Engine:
    match choice.name:
        case "torch":
            return open_torch(classifier, choice.batch_size, choice.plain)
        case "compile":
            return open_compiled(classifier, choice.batch_size)
    with _engine_file(choice, model, tracking_uri) as path:
        return open_file(
            choice.name, path, len(classifier.classes), choice.workers, choice.batch_size, classifier.novelty
        )


@contextmanager
def _engine_file(choice: EngineChoice, model: ModelVersion, tracking_uri: str) -> Iterator[Path]:
    """Return a local file with the chosen digest."""
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


log = logging.getLogger("grayline")

_AGREES = 1e-4  # of the differences between two probabilities that are let through
# The shares of kept answers that may be decided otherwise. In float32, images on the border between two classes may.
# int8 may differ in one in a hundred more than the gate saw.
_DIFFERING, _INT8_DIFFERING = 0.002, 0.01
_REMEDY = (
    " in float32, by the network as it is. This machine does not compute what the gate has judged. Unset "
    "ONEDNN_DEFAULT_FPMATH_MODE if it is set; otherwise score on another machine, or retrain on this one."
)
_FASTER = 1.05  # times torch's speed that another engine must reach; less is chance
_COMPARED = 64  # images
_BRIEF = 20.0  # seconds of a batch below which not even torch is measured
# Seconds that a batch must take for a trial to pay, in the order of the trials.
PAYS: dict[EngineName, float] = {"onnx": 60, "openvino": 60, "int8": 60, "compile": 900}
_WRITTEN: tuple[EngineName, ...] = ("onnx", "openvino")  # what runs the file in the store
_BROKEN = "does not work"  # how the reason begins that may be gone the next time

_Trials = dict[EngineName, EngineTrial]


@dataclass(frozen=True)
class Surroundings:
    """The version and the machine that engines are tried for; `take` returns real images of the batch."""

    model: ModelVersion
    classifier: Classifier
    tracking_uri: str
    take: Callable[[], NDArray[np.uint8]]
    workers: int
    folder: UPath

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """Return uint8 [M, S, S] of the batch; noise if it has none."""
        found, size = self.take(), self.classifier.preprocessing.size
        return found if len(found) else np.random.default_rng(0).integers(0, 256, (8, size, size), np.uint8)

    @cached_property
    def own(self) -> NDArray[np.float32]:
        """Return the classifier's own probabilities [N, C] for the first of them."""
        return self.classifier.probabilities(self.pixels[:_COMPARED])

    @cached_property
    def int8(self) -> Int8 | None:
        """Return the version's int8 file; None if the gate has not allowed it."""
        return allowed_int8(self.tracking_uri, self.model)

    @cached_property
    def kept(self) -> Answers | None:
        """Return the version's kept answers; None without any that can be used."""
        try:
            return answers_of(self.tracking_uri, self.model, self.classifier)
        except NoAnswersError as why:
            log.warning("engine      %s: %s; engines are compared with float32 on this machine", self.model, why)
            return None

    @cached_property
    def here(self) -> Answers:
        """Return answers of this machine, in float32."""
        return Answers(self.pixels, self.classifier.probabilities(self.pixels), "float32's on this machine")

    def share(self, name: EngineName) -> float:
        """Return the share of answers that the engine may decide otherwise."""
        return self.int8.differing + _INT8_DIFFERING if name == "int8" and self.int8 else _DIFFERING

    def open(self, trial: EngineTrial) -> Engine:
        return open_engine(self.choice(trial), self.model, self.tracking_uri, self.classifier)

    def choice(self, trial: EngineTrial, trials: tuple[EngineTrial, ...] = ()) -> EngineChoice:
        file = self.folder / ENGINE_FILE if trial.name in _WRITTEN else None
        plain = trial.name == "torch" and bool(trial.wrong)
        return EngineChoice(
            trial.name, trial.batch_size, self.workers, trial.speed, file, trial.digest, plain, trials,
            arithmetic(self.classifier.device), self.share(trial.name),
        )  # fmt: skip

    def judged(self, trial: EngineTrial, engine: Engine, most: int) -> EngineTrial:
        """Return the trial with its differences from float32 and from `most` answers, and whether it is wrong."""
        difference = engine_trial.difference(engine.run, self.pixels[:_COMPARED], self.own)
        trial = replace(trial, difference=difference)
        if trial.name != "int8" and difference > _AGREES:
            return replace(trial, wrong=f"a probability differs by {difference:.2g} from torch's, over {_AGREES:g}")
        if self.kept is None and trial.name != "int8":
            return trial
        wanted = (self.kept or self.here).some(most)
        differing, wrong = _compare(engine, wanted, self.classifier, self.share(trial.name))
        return replace(trial, differing=differing, compared=len(wanted), wrong=wrong)


def all_trials(around: Surroundings, wanted: EngineName | None, files: int) -> _Trials:
    """Return trials of earlier batches, and new ones that are worth it for this batch or asked for."""
    known = _read_trials(around)
    found = dict(known)
    if "torch" not in found:
        found["torch"] = _try_torch(around, files)
    own = found["torch"]
    for name, pays in PAYS.items():
        asked = name == wanted or (wanted is None and files / own.speed >= pays and _may_run(around, name))
        if asked and name not in found:
            found[name] = _try_engine(around, name, own, found)
    if found != known and (len(found) > 1 or files / own.speed >= _BRIEF):
        rows = [asdict(trial) for trial in found.values() if not trial.wrong.startswith(_BROKEN)]
        write_text(around.folder / TRIALS, json.dumps(rows, indent=2) + "\n")
    return found


def _read_trials(around: Surroundings) -> _Trials:
    """Read trials, without those whose files are not the tried ones, or would not be run now."""
    path, file = around.folder / TRIALS, around.folder / ENGINE_FILE
    if not path.exists():
        return {}
    try:
        rows = [EngineTrial(**row) for row in read_json(path)]
    except (DamagedFileError, TypeError) as error:
        log.warning("engine      %s: engines are tried again (%s)", path, error)
        return {}
    written = ""
    if file.exists():
        with as_local(file) as local:
            written = file_digest(local)
    if written and any(row.name in _WRITTEN and row.digest not in ("", written) for row in rows):
        log.warning("engine      %s is damaged: it is written and tried again", file)
    return {
        row.name: row
        for row in rows
        if (row.name not in _WRITTEN or (written and row.digest == written))
        and (row.name != "int8" or row.digest == _digest(around.int8))
    }


def _digest(int8: Int8 | None) -> str:
    return int8.digest if int8 else ""


def _may_run(around: Surroundings, name: EngineName) -> bool:
    return can_run(name, around.classifier.device) and (name != "int8" or around.int8 is not None)


def _try_torch(around: Surroundings, files: int) -> EngineTrial:
    """Try torch. For a short batch, a few answers and a single call must do.

    Raises JobError if not even the network as it is decides as the gate saw it.
    """
    trial, engine = _folded_or_plain(
        around, EngineTrial("torch", 0.0, 1.0, 0.0, usual_batch(around.classifier)), _COMPARED
    )
    few = around.pixels[:_COMPARED]
    started = time.perf_counter()
    engine.run(few)
    speed = around.workers * len(few) / (time.perf_counter() - started)
    if files / speed >= _BRIEF:
        trial, engine = _folded_or_plain(around, trial, MOST)
        speed = statistics.median(engine_trial.rates([engine.run], around.pixels, around.workers)[0])
    return replace(trial, speed=speed, batch_size=engine.batch_size)


def _folded_or_plain(around: Surroundings, trial: EngineTrial, most: int) -> tuple[EngineTrial, Engine]:
    """Return torch's trial with an engine that decides right: the folded network, or the network as it is."""
    if not trial.wrong:
        engine = around.open(trial)
        trial = around.judged(trial, engine, most)
        if not trial.wrong:
            return trial, engine
        trial = replace(trial, wrong=f"folded, {trial.wrong}")
        log.warning("engine      torch: %s; the network is used as it is", trial.wrong)
    engine = around.open(trial)
    if (plain := around.judged(replace(trial, wrong=""), engine, most)).wrong:
        raise JobError(f"{around.model}: {plain.wrong}{_REMEDY}")
    return replace(plain, wrong=trial.wrong), engine


def _try_engine(around: Surroundings, name: EngineName, own: EngineTrial, known: _Trials) -> EngineTrial:
    """Try an engine against torch's. A failure of another library does not fail the batch."""
    log.info("engine      trying %s", name)
    trial = EngineTrial(name, 0.0, 0.0, float("nan"), own.batch_size)
    try:
        trial = replace(trial, digest=_file_for(around, name, known))
        engine = around.open(trial)
        trial = around.judged(trial, engine, MOST)
        if trial.wrong:
            log.warning("engine      %s is not used here: %s", name, trial.wrong)
            return trial
        ratio = engine_trial.ratio(engine.run, around.open(own).run, around.pixels, around.workers)
    except RegistryError:  # no answer of MLflow is not a verdict on the engine
        raise
    except Exception as error:  # noqa: BLE001  of whatever library
        return replace(trial, wrong=f"{_BROKEN} here ({_first_line(error)})")
    return replace(trial, speed=ratio * own.speed, ratio=ratio)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _file_for(around: Surroundings, name: EngineName, known: _Trials) -> str:
    """Return the digest of the engine's file; write the file unless another engine shares it."""
    if name == "int8":
        return _digest(around.int8)
    if name not in _WRITTEN:
        return ""
    there = next((known[other].digest for other in _WRITTEN if other in known and known[other].digest), "")
    if there:
        return there
    with write_whole(around.folder / ENGINE_FILE) as draft:
        write_file(around.classifier, around.model.name, around.model.version, draft)
        return file_digest(draft)


def fastest(around: Surroundings, trials: _Trials) -> EngineTrial:
    """Return torch, unless another engine is faster by more than chance."""
    able = [t for t in trials.values() if not t.wrong and t.ratio >= _FASTER and _may_run(around, t.name)]
    return max(able, key=lambda trial: trial.ratio, default=trials["torch"])
