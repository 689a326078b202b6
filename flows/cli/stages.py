"""The stages of the nightly flow as commands, and the trainings beside it: cross-validation and tuning.

Heavy imports wait inside the commands.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.begin import write_file
from flows.cli.options import DatasetFile, check
from flows.cli.tables import console, number, say, show_checks, table
from resnet_core.errors import UserError, plural
from tasks.settings import Settings

if TYPE_CHECKING:
    from tasks.training.cross_validate import CrossValidation
    from tasks.training.tune import Tuning
    from tasks.values import Night

app = typer.Typer()


@app.command()
def ingest(dataset: DatasetFile) -> None:
    """Read new and changed images of the source, and update the catalog."""
    _retrain(dataset, "ingest")


@app.command()
def preprocess(dataset: DatasetFile) -> None:
    """Write the catalog's good images as shards."""
    _retrain(dataset, "preprocess")


@app.command()
def train(
    dataset: DatasetFile,
    folds: Annotated[int | None, typer.Option(help="Cross-validate instead: one training per fold.")] = None,
) -> None:
    """Train on the shards, or resume an interrupted training."""
    if folds is None:
        _retrain(dataset, "train")
        return
    from tasks.training.cross_validate import check_folds

    check_folds(folds)
    check(dataset)
    from flows.cross_validate import cross_validate

    _show_cross_validation(cross_validate(dataset, folds))


@app.command()
def tune(
    dataset: DatasetFile,
    trials: Annotated[int, typer.Option(help="Trainings in all, those of earlier runs included.")] = 20,
    epochs: Annotated[int | None, typer.Option(help="Epochs per trial; by default those of the data set file.")] = None,
    metric: Annotated[str | None, typer.Option(help="What to judge by; by default the gate's metric.")] = None,
) -> None:
    """Search for better settings, or resume an interrupted search."""
    try:
        from flows.tune import tune as flow
        from tasks.training.tune import check_numbers
    except ModuleNotFoundError as error:
        raise UserError(f"tune: needs {error.name}. Run `pip install 'grayline[tune]'`.") from None
    check_numbers(trials, epochs)
    check(dataset)
    _show_tuning(flow(dataset, trials, epochs, metric))


@app.command()
def evaluate(
    dataset: DatasetFile,
    backend: Annotated[
        str | None, typer.Option(help="Measure a version by tensorflow, onnx, openvino or torch, beside PyTorch.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="With --backend: NAME@ALIAS or NAME/VERSION; the champion by default.")
    ] = None,
) -> None:
    """Measure the trained classifier on the held-out images."""
    if backend:
        from flows.cli.frameworks import evaluate_by

        evaluate_by(dataset, backend, model)
        return
    if model:
        raise UserError("--model: needs --backend. Without it the data set's own training is measured.")
    _retrain(dataset, "evaluate")


@app.command()
def register(dataset: DatasetFile) -> None:
    """Register the trained classifier as a version, the challenger."""
    _retrain(dataset, "register")


@app.command()
def retrain(dataset: DatasetFile) -> None:
    """Run the nightly flow: all stages, then the gate."""
    if sys.stdin.isatty() and Path(dataset).is_dir():
        say(f"{dataset} is a folder of images, and a night needs a data set file.")
        if typer.confirm(f"Look at it and write one, as `grayline init {dataset}` does?", default=True):
            dataset = str(write_file(dataset, asks=True))
    _retrain(dataset, "gate")


def _retrain(dataset: str, until: Any) -> None:
    """Run the stages up to `until`; what earlier stages have left is reused."""
    check(dataset, registry=until not in ("ingest", "preprocess"))
    from flows.nightly_retrain import nightly_retrain

    show_night(nightly_retrain(dataset, until))


def show_night(night: Night) -> None:
    """Print a line per stage, and the gate's checks."""
    from tasks.report.night_page import headline, summary

    rows = table("stage", "", title=headline(night))
    for stage, text in summary(night):
        rows.add_row(stage, text)
    console.print(rows)
    for text in night.evaluation.missed if night.evaluation else ():
        console.print(f"missed: {text}", style="yellow")
    say("")
    if night.decision and night.decision.checks:
        show_checks(night.decision.checks)
    if night.version:
        version = f"{night.version.name}/{night.version.version}"
        say(f"All of it on one page, with its errors: `grayline report {version} -o report.html`", "")


def _show_cross_validation(result: CrossValidation) -> None:
    """Print the mean and the spread of each metric over the folds, and where the predictions are."""
    again = f", {result.reused} of them in an earlier run" if result.reused else ""
    title = f"{result.dataset}: {plural(result.folds, 'fold')} of {plural(result.count, 'training image')}{again}"
    rows = table("metric", *map(number, ("mean", "standard deviation", "folds")), title=title)
    for name, (mean, std) in result.metrics.items():
        values = " ".join(f"{value:.3f}" for value in result.by_fold[name])
        rows.add_row(name.replace("_", " "), f"{mean:.3f}", f"{std:.3f}", values)
    console.print(rows)
    say(str(result.predictions), f"run {result.mlflow_run_id} in {Settings().tracking_uri}")


def _show_tuning(result: Tuning) -> None:
    """Print the best values as a part of a data set file, their importance, and where the study is."""
    import yaml

    from resnet_core.training.search_space import fragment

    plan = result.plan
    title = f"{plan.name}: {plural(result.trials, 'trial')}, {result.pruned} ended early"
    rows = table("setting", number("best"), number("importance"), title=title)
    for key, value in result.values.items():
        rows.add_row(key, str(value), f"{result.importance[key]:.2f}" if key in result.importance else "")
    console.print(rows)
    own = f"; your own values: {result.own_value:.4f}" if result.own_value is not None else ""
    found = f"validation {plan.metric} {result.value:.4f}"
    say("", f"{found} after {plural(plan.epochs, 'epoch')}, trial {result.number}{own}")
    say("", "# for the data set file", *yaml.safe_dump(fragment(result.values), sort_keys=False).splitlines(), "")
    say(f"pictures and trials: run {plan.mlflow_run_id} in {Settings().tracking_uri}", f"study: {plan.storage}")
