"""Tune: an Optuna study over a data set's settings.

A trial is a training, judged by the gate's metric on images that are kept aside from the training images. Test images
are never used.
"""

import logging
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import torch
import yaml
from optuna.study import Study
from optuna.trial import Trial
from prefect import task
from upath import UPath

from resnet_core.errors import JobError, TrainingError, UserError, nearest, plural
from resnet_core.evaluation.metrics import GATE_METRICS, METRICS
from resnet_core.storage.digest import digest_of, table_digest
from resnet_core.storage.files import write_whole
from resnet_core.training import loop as fit
from resnet_core.training import search_space
from resnet_core.training.job import Job
from resnet_core.training.loop import Epoch, Step
from resnet_core.training.search_space import Space, Value
from tasks.artifacts import markdown_table, publish_page
from tasks.dataset import Dataset
from tasks.defaults.settle import settle
from tasks.progress import Advance, progress
from tasks.registry import runs as tracking
from tasks.store import KEPT_ASIDE
from tasks.training import studies
from tasks.training.folds import training_images
from tasks.training.processes import LostProcessError
from tasks.training.run import job_of, learning_digest, places, run_job
from tasks.values import Night, ShardSet, have
from tasks.workspace import Workspace


@dataclass(frozen=True)
class _StudyPlan:
    """An Optuna study `name` of `trials` trials by `metric`, new or to be continued, in Optuna's `storage`.

    `folder` holds the trials' checkpoints; the trials' runs are nested in `mlflow_run_id`.
    """

    dataset: str
    name: str
    storage: str
    metric: str
    folder: UPath
    trials: int
    epochs: int
    mlflow_run_id: str


@dataclass(frozen=True)
class Tuning:
    """A finished study: `trials` in all, `pruned` of them ended early.

    `values` are those of the trial `number` with the best validation `value`; `own_value` is the data set file's
    own. `importance` is each setting's share in the differences between trials.
    """

    plan: _StudyPlan
    trials: int
    pruned: int
    number: int
    value: float
    values: dict[str, Value]
    own_value: float | None
    importance: dict[str, float]


log = logging.getLogger("grayline")

PARTS = 5  # a fifth of the training images is kept aside if there are no validation images
_OUTCOME = "grayline.trial"

_CORRECTIONS = {"sampling", "class_weights"}  # of rare classes, beside `logit_adjustment`


@dataclass(frozen=True)
class _Trials:
    """The settings that the trials of a study share."""

    plan: _StudyPlan
    job: Job
    space: Space
    here: Workspace


def check_numbers(trials: int, epochs: int | None) -> None:
    """Raises UserError for numbers below 1."""
    for option, number in (("--trials", trials), ("--epochs", 1 if epochs is None else epochs)):
        if number < 1:
            raise UserError(f"{option}: {number} is too few. Write 1 or more.")


def judged_by(dataset: Dataset, metric: str | None) -> Dataset:
    """Return the data set with another metric of the gate, if one is given. Raises UserError for an unknown one."""
    if metric is None:
        return dataset
    if metric not in GATE_METRICS:
        hint = nearest(metric, list(GATE_METRICS))
        raise UserError(f"--metric: unknown metric {metric!r}.{hint} Known: {', '.join(GATE_METRICS)}.")
    return dataset.model_copy(update={"gate": dataset.gate.model_copy(update={"metric": metric})})


@task
def plan_study(
    night: Night, dataset: Dataset, storage: str, trials: int, epochs: int | None, here: Workspace
) -> _StudyPlan:
    """Find the study of the same data, settings, space and code, or plan a new one."""
    shard_set, images = have(night.shard_set), None
    if not shard_set.validation:
        images = training_images(shard_set, night.catalog, PARTS, dataset.split.seed, here.keys)
    settings = _settings_of(shard_set, dataset, epochs, here)
    aside = table_digest([images]) if images else None
    made_of = learning_digest(shard_set, settings)
    metric = dataset.gate.metric
    judged = () if metric == "accuracy" else (metric,)  # as studies were named before there was a choice
    digest = digest_of("tune", aside, made_of, _space_of(settings), *judged)
    folder = here.store.tune(dataset.name) / digest
    if images:
        with write_whole(folder / KEPT_ASIDE) as draft:
            pq.write_table(images, draft)
    tracking_uri = here.tracking_uri
    run_id = tracking.open_run(tracking_uri, here.store.root, dataset.name, digest, name=f"{dataset.name}-tune")
    tracking.log_params(tracking_uri, run_id, settings.model_dump(exclude={"tune"}))
    name = f"{dataset.name}-{digest}"
    return _StudyPlan(dataset.name, name, storage, metric, folder, trials, settings.train.epochs, run_id)


def _settings_of(shard_set: ShardSet, dataset: Dataset, epochs: int | None, here: Workspace) -> Dataset:
    """Return the settings of a trial: from scratch, because the champion may have seen the images that are kept
    aside.

    Where the search has another correction of rare classes, the one that would be chosen by itself is left out.
    """
    settled = settle(shard_set, dataset, here)
    train = replace(settled.train, start="scratch", epochs=epochs or settled.train.epochs)
    if "train.logit_adjustment" in dataset.auto and _CORRECTIONS & dataset.tune.keys():
        train = replace(train, logit_adjustment=0.0)
    return settled.model_copy(update={"train": train})


def _space_of(dataset: Dataset) -> Space:
    return search_space.parse(dataset.tune or search_space.around(dataset.train))


@task
def run_trials(plan: _StudyPlan, shard_set: ShardSet, dataset: Dataset, here: Workspace) -> int:
    """Bring the study to as many trials as planned. Returns their number before."""
    settings = _settings_of(shard_set, dataset, plan.epochs, here)
    job = replace(job_of(shard_set, settings, here), judge=METRICS[plan.metric])
    if not shard_set.validation:
        with (plan.folder / KEPT_ASIDE).open("rb") as file:
            job = replace(job, held_out=pq.read_table(file, columns=["fold"])["fold"].to_numpy() == 0)
    shared = _Trials(plan, job, _space_of(settings), here)
    tracking_uri = here.tracking_uri
    study = studies.open_study(plan.storage, plan.name, plan.epochs)
    studies.queue_again(study)
    own = search_space.own(job.model, job.config, shared.space)
    if own:
        studies.queue_own(study, own)
    before = done = len(studies.ended(study))
    log.info(
        "tune        %s of %s, on %s",
        plural(plan.trials, "trial"),
        plural(plan.epochs, "epoch"),
        places(job, here.device),
    )
    with (
        tracking.running(tracking_uri, plan.mlflow_run_id, ends=False),
        progress("tune", plan.trials, "trials") as advance,
    ):
        advance(min(done, plan.trials))
        while done < plan.trials:
            study.sampler = studies.sampler(job.config.seed, studies.begun(study))
            study.optimize(lambda trial: _run_trial(trial, study, shared, advance), n_trials=1)
            done = len(studies.ended(study))
            advance(1)
    return before


def _run_trial(trial: Trial, study: Study, shared: _Trials, advance: Advance) -> float:
    """Return the validation metric of a training with the trial's values.

    Raises TrialPruned for a trial that is ended early or cannot be trained.
    """
    trial.set_user_attr(studies.PROCESS, studies.this_process())
    values = studies.suggest(trial, shared.space)
    plan, number = shared.plan, studies.first_number(study, trial.number)
    tracking_uri = shared.here.tracking_uri
    name = f"{plan.name}-{number}"
    run_id = tracking.open_run(
        tracking_uri, shared.here.store.root, plan.dataset, name, name=f"trial-{number}", parent=plan.mlflow_run_id
    )
    tracking.log_params(tracking_uri, run_id, search_space.fragment(values))
    model, config = search_space.apply(shared.job.model, shared.job.config, values)
    job = replace(shared.job, model=model, config=config, state=plan.folder / f"{number}.safetensors")
    value = None
    with tracking.running(tracking_uri, run_id):
        try:
            value = train(trial, study, job, shared, run_id, advance)
            outcome = f"{value:.4f}"
        except LostProcessError:
            raise
        except (TrainingError, torch.OutOfMemoryError, optuna.TrialPruned) as error:
            # Values that fail are bad values, and the sampler should know.
            outcome = f"ended, {error}"
        tracking.client(tracking_uri).set_tag(run_id, _OUTCOME, outcome)
    log.info("tune        trial %d: %s with %s", trial.number, outcome, _text_of(values))
    plan.folder.joinpath(f"{number}.safetensors").unlink(missing_ok=True)
    if value is None:
        raise optuna.TrialPruned(outcome)
    return value


def train(trial: Trial, study: Study, job: Job, shared: _Trials, run_id: str, advance: Advance) -> float:
    """Train, and return the validation metric of the classifier."""
    last, leader, metric = job.config.epochs, studies.leader(study), shared.plan.metric

    def note(at: Epoch | Step, name: str, value: float) -> str:
        return f"trial {trial.number}  epoch {at.epoch}/{last}  {name} {value:.3f}  {leader}"

    def on_step(step: Step) -> None:
        advance(0, note(step, "accuracy", step.accuracy))

    def on_epoch(epoch: Epoch) -> None:
        value = epoch.validation_accuracy
        assert value is not None
        if math.isnan(value):
            raise UserError(f"tune: the images kept aside cannot tell {metric}: they are of one class. Add images.")
        tracking.log_epochs(shared.here.tracking_uri, run_id, [epoch], metric)
        trial.report(value, epoch.epoch)
        advance(0, note(epoch, metric, value))
        if epoch.epoch < last and trial.should_prune():
            raise optuna.TrialPruned(f"at {value:.4f} after {epoch.epoch} of {last} epochs")

    _, epochs = run_job(job, shared.here, on_step, on_epoch)
    tracking.log_epochs(shared.here.tracking_uri, run_id, epochs, metric)
    # A killed process may have written the checkpoint of an epoch that it had not reported.
    reported = study.trials[trial.number].intermediate_values
    for epoch in epochs:
        if epoch.epoch not in reported and epoch.validation_accuracy is not None:
            trial.report(epoch.validation_accuracy, epoch.epoch)
    found = epochs[fit.best(epochs) - 1 if job.config.early_stopping else -1].validation_accuracy
    assert found is not None
    return found


def _text_of(values: Mapping[str, Value]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


@task
def finish_study(plan: _StudyPlan, here: Workspace) -> Tuning:
    """Return the outcome of the study; log its best values and its pictures.

    Raises JobError if no trial came to its end.
    """
    tracking_uri = here.tracking_uri
    study = studies.open_study(plan.storage, plan.name, plan.epochs)
    ended, complete = studies.ended(study), studies.completed(study)
    if not complete:
        raise JobError(
            f"tune: none of {plural(len(ended), 'trial')} came to its end. Search smaller rates: `tune: {{lr: [...]}}`."
        )
    best = study.best_trial
    own = [trial.value for trial in complete if trial.user_attrs.get(studies.OWN)]
    values = studies.values_of(best)
    found = Tuning(
        plan=plan,
        trials=len(ended),
        pruned=len(ended) - len(complete),
        number=best.number,
        value=float(study.best_value),
        values=values,
        own_value=own[0] if own else None,
        importance=studies.importance(study),
    )
    with tracking.running(tracking_uri, plan.mlflow_run_id), tempfile.TemporaryDirectory() as folder:
        tracking.log_metrics(tracking_uri, plan.mlflow_run_id, {f"best_validation_{plan.metric}": found.value})
        Path(folder, "best.yaml").write_text(_fragment_text(values), encoding="utf-8")
        studies.draw(study, Path(folder))
        tracking.client(tracking_uri).log_artifacts(plan.mlflow_run_id, folder, "tune")
    publish_page(markdown(found), key="tune", description="The best values, and what matters")
    return found


def _fragment_text(values: Mapping[str, Value]) -> str:
    """Return the values as YAML for a data set file."""
    return yaml.safe_dump(search_space.fragment(values), sort_keys=False)


def markdown(found: Tuning) -> str:
    rows = ((key, value, f"{found.importance.get(key, float('nan')):.2f}") for key, value in found.values.items())
    return (
        f"# {found.plan.dataset}: validation {found.plan.metric} {found.value:.4f}, the best of "
        f"{plural(found.trials, 'trial')}\n\n"
        f"```yaml\n{_fragment_text(found.values)}```\n\n{markdown_table(('key', 'best', 'importance'), rows)}\n"
    )
