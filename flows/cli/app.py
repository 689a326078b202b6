"""The command line: `grayline --help`.

Exit status 0: done. 1: the job failed. 2: the input is wrong, said in one line on stderr.
Heavy imports wait inside the commands, so that `--help` and a wrong path answer at once.
"""

import logging
import os
import runpy
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows.cli import frameworks, labels, scores, store, versions
from flows.cli.options import DatasetFile, check, ready, resumable
from resnet_core.errors import JobError, UserError, nearest
from tasks.progress import ConsoleHandler
from tasks.settings import prepare_environment

_HOME = Path(__file__).resolve().parents[2]
SAMPLES = _HOME / "data" / "samples"

app = typer.Typer(
    name="grayline",
    help="Retrains a grayscale ResNet image classifier every night, and scores image collections in bulk.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.add_typer(store.app)
app.add_typer(store.catalog, name="catalog")
app.add_typer(versions.app)
app.add_typer(labels.app)
app.add_typer(scores.app)
app.add_typer(frameworks.app)


def main() -> None:
    """Run a command; turn the user's errors into one line and status 2."""
    try:
        prepare_environment()
        _show_log_lines()
        app()
    except UserError as error:
        print(f"grayline: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except JobError as error:
        print(f"grayline: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)


def _show_log_lines() -> None:
    """Our own log lines go to the terminal as they are, above the progress bars."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # the API still gets all
    log = logging.getLogger("grayline")
    log.setLevel(logging.INFO)
    log.addHandler(ConsoleHandler())
    log.propagate = False


@app.command()
def demo(
    dataset: Annotated[Literal["elpv", "digits"], typer.Option(help="The sample data set.")] = "elpv",
) -> None:
    """The main job on real images, without a server: from files to a champion and a scored batch."""
    ready()
    from flows.classify_batch import classify_batch
    from flows.cli.tables import show_night, show_places, show_scores
    from flows.nightly_retrain import nightly_retrain

    raw = Path("data/raw") / dataset
    if not (raw / "labels.csv").exists():
        write_sample(dataset, raw)
    with resumable():
        night = nightly_retrain(str(_HOME / "data" / f"{dataset}.yaml"))
        scores = classify_batch(str(raw), model=f"{dataset}@champion")
    show_night(night)
    show_scores(scores)
    show_places(dataset, scores)


@app.command()
def sample(
    name: Annotated[str, typer.Argument(help="elpv (solar cells) or digits.")],
    to: Annotated[Path, typer.Option(help="Folder to write to.")],
) -> None:
    """Write a real sample data set as image files and labels.csv."""
    known = sorted(path.stem for path in SAMPLES.glob("*.py"))
    if name not in known:
        raise UserError(f"sample: no data set {name!r}.{nearest(name, known)} There are: {', '.join(known)}.")
    write_sample(name, to)


def write_sample(name: str, to: Path) -> None:
    try:
        maker = runpy.run_path(str(SAMPLES / f"{name}.py"))
        count = maker["make"](to)
    except ModuleNotFoundError as error:
        raise UserError(f"sample {name}: needs {error.name}. Run `pip install 'grayline[samples]'`.") from None
    except OSError as error:
        raise UserError(f"--to: cannot write under {to} ({error.strerror}). Choose another folder.") from None
    logging.getLogger("grayline").info(
        "sample      %s images and labels.csv in %s (licence: %s)", f"{count:,}", to, maker["LICENCE"]
    )


@app.command()
def ingest(dataset: DatasetFile) -> None:
    """Read what is new of the source, and bring the catalog up to date."""
    _retrain(dataset, "ingest")


@app.command()
def preprocess(dataset: DatasetFile) -> None:
    """Make the shards of the catalog's good images."""
    _retrain(dataset, "preprocess")


@app.command()
def train(
    dataset: DatasetFile,
    folds: Annotated[
        int | None, typer.Option(help="Cross-validate instead: a training for each of so many folds.")
    ] = None,
) -> None:
    """Train on the shards, or go on where a training was interrupted."""
    if folds is None:
        _retrain(dataset, "train")
        return
    from tasks.training.cross_validate import check_folds

    check_folds(folds)
    check(dataset)
    from flows.cli.tables import show_cross_validation
    from flows.cross_validate import cross_validate

    with resumable():
        show_cross_validation(cross_validate(dataset, folds))


@app.command()
def tune(
    dataset: DatasetFile,
    trials: Annotated[int, typer.Option(help="How many trainings in all, those of earlier runs included.")] = 20,
    epochs: Annotated[int | None, typer.Option(help="Epochs of each; by default those of the data set file.")] = None,
) -> None:
    """Search for better settings, or go on where a search was interrupted."""
    try:
        from flows.tune import tune as flow
        from tasks.training.tune import check_numbers
    except ModuleNotFoundError as error:
        raise UserError(f"tune: needs {error.name}. Run `pip install 'grayline[tune]'`.") from None
    check_numbers(trials, epochs)
    check(dataset)
    from flows.cli.tables import show_tuning

    with resumable():
        show_tuning(flow(dataset, trials, epochs))


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
        frameworks.evaluate_by(dataset, backend, model)
        return
    if model:
        raise UserError("--model: goes with --backend. Without it the data set's own training is measured.")
    _retrain(dataset, "evaluate")


@app.command()
def register(dataset: DatasetFile) -> None:
    """Register the trained classifier as a version, the challenger."""
    _retrain(dataset, "register")


@app.command()
def retrain(dataset: DatasetFile) -> None:
    """The nightly flow: all stages, then the gate."""
    _retrain(dataset, "gate")


def _retrain(dataset: str, until: Any) -> None:
    """Every stage finds what the stages before it have left; one that is missing is made."""
    check(dataset)
    from flows.cli.tables import show_night
    from flows.nightly_retrain import nightly_retrain

    with resumable():
        show_night(nightly_retrain(dataset, until))


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="A deployment: classify-batch, nightly-retrain, ...")],
    param: Annotated[list[str] | None, typer.Option(help="key=value; again for each parameter.")] = None,
    watch: Annotated[bool, typer.Option(help="Follow the run to its end.")] = True,
) -> None:
    """Run a deployment on the Prefect server: `prefect deployment run NAME/NAME`."""
    from flows.stack import run_deployment

    sys.exit(run_deployment(name, param or [], watch))


@app.command()
def doctor() -> None:
    """Check the installation, and say what to do about each failure."""
    from flows.doctor import examine

    sys.exit(0 if examine() else 1)


if __name__ == "__main__":
    main()
