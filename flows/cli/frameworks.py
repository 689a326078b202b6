"""The commands for other frameworks; `cli` puts them at the top, beside the others.

Heavy imports wait inside the commands.
"""

from typing import Annotated, Any

import typer
from rich.table import Table
from upath import UPath

from flows.cli.options import DatasetFile, check, ready, resumable
from flows.cli.tables import console
from resnet_core.errors import UserError, nearest
from resnet_core.storage.files import absolute
from tasks.export.backends import BackendAccuracy
from tasks.export.export import Export
from tasks.export.features import FeatureSet
from tasks.settings import Settings, check_store, known_keys

app = typer.Typer()


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="Or NAME/VERSION; NAME is its champion.")],
    kind: Annotated[str, typer.Option("--format", help="onnx, litert, torch (a .pt2 file) or int8 (ONNX).")],
    output: Annotated[str, typer.Option("--output", "-o", help="The file to write.")],
    allow_difference: Annotated[bool, typer.Option(help="Write it even if it differs from the model.")] = False,
) -> None:
    """Write a version as a file for another framework, checked on held-out images before it appears."""
    from resnet_core.export.formats import FORMATS
    from tasks.export.export import check_place
    from tasks.export.export import export as write

    wanted: Any = one_of("--format", kind, FORMATS)
    to = absolute(UPath(output))
    check_place(to, wanted)
    settings = Settings()
    if settings.prefect_api_url:
        ready(fans_out=False)
        from flows.export import export as flow

        _show_export(flow(model, wanted, output, allow_difference))
        return
    check_store(settings.root)  # a server of its own would take as long as all that there is to do
    from tasks.registry.versions import resolve

    version = resolve(settings.tracking_uri, model, field="NAME@ALIAS")
    _show_export(
        write(version, wanted, to, settings.root, settings.tracking_uri, known_keys(settings), allow_difference)
    )


@app.command()
def features(
    dataset: DatasetFile,
    layer: Annotated[str, typer.Option(help="stem, stage1 to stage4, pool (what is classified) or logits.")],
    kind: Annotated[str, typer.Option("--format", help="safetensors, npz, parquet or tfrecord.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder to write to.")],
    model: Annotated[
        str | None, typer.Option(help="NAME@ALIAS or NAME/VERSION; the data set's champion by default.")
    ] = None,
    in_clear: Annotated[bool, typer.Option(help="Write those of an encrypted data set, too.")] = False,
) -> None:
    """Write what a layer puts out for every image of a data set, or go on where that was interrupted."""
    from resnet_core.inference.feature_files import KINDS
    from resnet_core.model.features import LAYERS
    from tasks.dataset import load_dataset
    from tasks.export.features import check_wanted

    of: Any = one_of("--layer", layer, LAYERS)
    wanted: Any = one_of("--format", kind, KINDS)
    check(dataset)
    check_wanted(wanted, absolute(UPath(output)), load_dataset(dataset).encrypt, in_clear)
    from flows.features import features as flow

    with resumable():
        _show_features(flow(dataset, of, wanted, output, model, in_clear))


def evaluate_by(dataset: str, backend: str, model: str | None) -> None:
    """`grayline evaluate --backend`."""
    from resnet_core.export.formats import BACKENDS, check_installed

    wanted: Any = one_of("--backend", backend, BACKENDS)
    check_installed("--backend", wanted)
    check(dataset)
    from flows.evaluate_backend import evaluate_backend

    with resumable():
        _show_backend(evaluate_backend(dataset, wanted, model))


def one_of(option: str, word: str, known: tuple[str, ...]) -> str:
    if word not in known:
        raise UserError(f"{option}: {word!r} is none.{nearest(word, list(known))} There are: {', '.join(known)}.")
    return word


def _show_export(made: Export) -> None:
    """How far the file is from the model, and where it is."""
    version = made.version
    console.print(f"{version.name} version {version.version} as {made.kind}, on {made.count:,} held-out images:")
    table = Table("", "PyTorch", made.kind, "difference", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    points = 100 * (made.accuracy - made.own_accuracy)
    table.add_row("accuracy", f"{made.own_accuracy:.4f}", f"{made.accuracy:.4f}", f"{points:+.2f} points")
    table.add_row("probabilities", "", "", f"at most {made.difference:.1e}")
    console.print(table)
    if made.wrong:
        console.print(f"allowed to differ: {made.wrong}")
    console.print(f"{made.size / 1e6:,.1f} MB in {made.seconds:,.0f} s\n{made.path}")


def _show_backend(found: BackendAccuracy) -> None:
    """Both accuracies and speeds, one below the other."""
    version = found.version
    title = f"{version.name} version {version.version} on {found.count:,} held-out images"
    table = Table("by", title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("accuracy", justify="right")
    table.add_column("images/s", justify="right")
    table.add_row("PyTorch", f"{found.own_accuracy:.4f}", f"{found.own_speed:,.0f}")
    table.add_row(found.backend, f"{found.accuracy:.4f}", f"{found.speed:,.0f}")
    console.print(table)
    points = 100 * (found.accuracy - found.own_accuracy)
    console.print(f"{points:+.2f} points apart; a probability differs by at most {found.difference:.1e}")
    console.print()


def _show_features(made: FeatureSet) -> None:
    version, shape = made.version, " x ".join(str(side) for side in made.shape)
    again = f", {made.reused:,} of them done in an earlier run" if made.reused else ""
    console.print(
        f"{made.layer} of {version.name} version {version.version}: float32 {shape} for {made.count:,} images{again}, "
        f"in {made.files:,} {made.kind} files"
    )
    console.print(f"{made.folder}")
    console.print()
