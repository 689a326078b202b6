"""Optuna's studies: kept in a database, resumed after a kill, drawn as pictures.

A killed process leaves a trial that is still marked as running. It is closed and queued again, with its values, its
checkpoint and its reports. Draws depend on the number of trials, not on the process: a killed study goes on to the
trials that it would have had.
"""

import os
import socket
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import optuna
import psutil
from optuna.distributions import FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.storages import RetryHeartbeatStaleTrialCallback as Retry
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from optuna.visualization import matplotlib as pictures

from resnet_core.credentials import opened
from resnet_core.storage.turns import process_began
from resnet_core.training.search_space import Between, Space, Value, significant
from tasks.store import sqlite_file

# Trials before the sampler learns from them, and before the median of the others ends one early.
_RANDOM, _UNPRUNED = 8, 5
PROCESS, OWN = "process", "own"  # attributes of a trial
_FEWEST = 4  # trials that say what matters
_RETRIES = 3


def open_study(storage: str, name: str, epochs: int) -> Study:
    """Open the study, or make a new one.

    A trial may end after a third of `epochs`: when its best accuracy is below the others' median at that epoch.
    """
    # Queueing a trial again is experimental in name only: since release 2.8.
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if file := sqlite_file(storage):
        file.parent.mkdir(parents=True, exist_ok=True)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED, n_warmup_steps=max(1, epochs // 3))
    return optuna.create_study(
        storage=opened(storage), study_name=name, direction="maximize", load_if_exists=True, pruner=pruner
    )


def queue_again(study: Study) -> None:
    """Queue the trials that were interrupted.

    A trial that was interrupted RETRIES times may be what kills the process: it is left out, and not counted.
    """
    trials = study.get_trials()
    queued = {number for trial in trials for number in Retry.retry_history(trial)}
    for trial in trials:
        if trial.state is TrialState.RUNNING and _is_dead(trial.user_attrs.get(PROCESS)):
            study.tell(trial.number, state=TrialState.FAIL)
        elif trial.state is not TrialState.FAIL or trial.number in queued:
            continue
        Retry(max_retry=_RETRIES, inherit_intermediate_values=True)(study, trial)


def this_process() -> list[str | int | float]:
    """Return the name of this process: its number alone is reused after a restart."""
    return [socket.gethostname(), os.getpid(), process_began(os.getpid())]


def _is_dead(process: list[str | int | float] | None) -> bool:
    """Return whether the process of a trial has ended. A process of another machine counts as alive."""
    if process is None or process[0] != socket.gethostname():
        return False
    try:
        return process_began(int(process[1])) != process[2]
    except psutil.NoSuchProcess:
        return True


def first_number(study: Study, number: int) -> int:
    """Return the trial's number before it was ever queued again: the name of its checkpoint and of its run."""
    history = Retry.retry_history(study.get_trials(deepcopy=False)[number])
    return history[0] if history else number


def ended(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def begun(study: Study) -> int:
    """Return trials that have ended, and those that other processes run."""
    return len(ended(study)) + len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


def completed(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def queue_own(study: Study, own: Mapping[str, Value]) -> None:
    """Queue the data set file's own values first: the best is then not worse than they are."""
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(dict(own), user_attrs={OWN: True})


def sampler(seed: int, number: int) -> optuna.samplers.BaseSampler:
    """For the next trial after so many. Tree-structured Parzen estimator (Bergstra et al. 2011),
    of all settings together (Falkner et al. 2018, arXiv:1807.01774, section 4.1)."""
    return optuna.samplers.TPESampler(seed=seed * 1_000_003 + number, multivariate=True, n_startup_trials=_RANDOM)


def suggest(trial: Trial, space: Space) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for key, part in space.items():
        if not isinstance(part, Between):
            found[key] = cast(Value, trial.suggest_categorical(key, part.values))
        elif part.step:
            found[key] = trial.suggest_int(key, int(part.low), int(part.high), step=part.step, log=part.log)
        else:
            found[key] = significant(trial.suggest_float(key, part.low, part.high, log=part.log))
    return found


def values_of(trial: FrozenTrial) -> dict[str, Value]:
    """Return the values that `suggest` gave the trial."""
    found: dict[str, Value] = {}
    for key, value in trial.params.items():
        exact = isinstance(trial.distributions[key], FloatDistribution)
        found[key] = significant(value) if exact else value
    return found


def leader(study: Study) -> str:
    """`best 0.973 (trial 4)`, or nothing yet."""
    best = max(completed(study), key=lambda trial: (trial.value or 0.0, -trial.number), default=None)
    return f"best {best.value:.3f} (trial {best.number})" if best else ""


def importance(study: Study) -> dict[str, float]:
    """Return the share of each setting in the variance of the accuracy, largest first.

    Functional ANOVA (Hutter et al. 2014). Empty if the trials cannot tell.
    """
    found = completed(study)
    if len(found) < _FEWEST or len({trial.value for trial in found}) < 2:
        return {}
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))


def draw(study: Study, folder: Path) -> None:
    """Draw the study's pictures, as PNG."""
    mpl.use("Agg")
    plots: dict[str, dict[str, Any]] = {"optimization_history": {}, "intermediate_values": {}}
    if importance(study):
        plots |= {"param_importances": {"evaluator": FanovaImportanceEvaluator(seed=0)}, "slice": {}}
    with mpl.rc_context():  # Optuna sets a style
        for name, options in plots.items():
            axes = getattr(pictures, f"plot_{name}")(study, **options)
            figure = np.ravel(axes)[0].get_figure()
            figure.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
            plt.close(figure)
