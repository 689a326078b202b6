"""Commands to begin with: `demo` runs the whole job on a sample data set, `sample` writes one."""

import logging
import runpy
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.options import ready
from flows.cli.tables import console, say, table
from flows.stack.deployments import shipped
from resnet_core.errors import UserError, nearest
from tasks.settings import Settings
from tasks.store import Store

app = typer.Typer()


@app.command()
def demo(
    dataset: Annotated[Literal["elpv", "digits"], typer.Option(help="The sample data set.")] = "elpv",
) -> None:
    """Run the main job on real images, without a server: from files to a champion and a scored batch."""
    ready()
    from flows.classify_batch import classify_batch
    from flows.cli.scores import show_scores
    from flows.cli.stages import show_night
    from flows.nightly_retrain import nightly_retrain

    raw = Path("data/raw") / dataset
    if not (raw / "labels.csv").exists():
        _write_sample(dataset, raw)
    night = nightly_retrain(str(shipped(f"data/{dataset}.yaml")))
    scores = classify_batch(str(raw), model=f"{dataset}@champion")
    show_night(night)
    show_scores(scores)
    _show_places(dataset, str(scores.output))


@app.command()
def sample(
    name: Annotated[
        str, typer.Argument(help="elpv (solar cells), digits, or parts (drawn, with and without a scratch).")
    ],
    to: Annotated[Path, typer.Option(help="Folder to write to.")],
) -> None:
    """Write a sample data set: real images and labels.csv, or drawn ones in a folder per class."""
    samples = sorted(path.stem for path in shipped("data/samples").glob("*.py"))
    if name not in samples:
        raise UserError(f"sample: unknown data set {name!r}.{nearest(name, samples)} Known: {', '.join(samples)}.")
    _write_sample(name, to)


def _write_sample(name: str, to: Path) -> None:
    try:
        maker = runpy.run_path(str(shipped(f"data/samples/{name}.py")))
        count = maker["make"](to)
    except ModuleNotFoundError as error:
        raise UserError(f"sample {name}: needs {error.name}. Run `pip install 'grayline[samples]'`.") from None
    except OSError as error:
        raise UserError(f"--to: cannot write under {to} ({error.strerror}). Choose another folder.") from None
    logging.getLogger("grayline").info(
        "sample      %s images%s in %s (licence: %s)",
        f"{count:,}",
        " and labels.csv" if (to / "labels.csv").exists() else "",
        to,
        maker["LICENCE"],
    )


def _show_places(dataset: str, scores: str) -> None:
    """Print where the demo's files are, and the next commands."""
    settings = Settings()
    store, places = Store(settings.root), table("what", "where")
    places.add_row("catalog", f"{store.catalog(dataset).parent}/")
    places.add_row("shards", f"{store.shards(dataset)}/")
    places.add_row("metrics and plots", f"{store.runs(dataset)}/")
    places.add_row("scores", f"{scores}/")
    places.add_row("model", f"models:/{dataset}@champion in {settings.tracking_uri}")
    console.print(places)
    say(
        "",
        "Next: `grayline up` starts the Prefect and MLflow servers on these files; "
        "`grayline classify-batch --source FOLDER --output FOLDER` scores your own images.",
    )
