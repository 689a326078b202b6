"""The commands for other frameworks; `cli` puts them at the top, beside the others.

Heavy imports wait inside the commands.
"""

from typing import Annotated, Any

import typer
from upath import UPath

from flows.cli.options import DatasetFile, check, ready, resumable
from resnet_core.errors import UserError, nearest
from resnet_core.storage.files import absolute
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
    from flows.cli.show_frameworks import show_export
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

        show_export(flow(model, wanted, output, allow_difference))
        return
    check_store(settings.root)  # a server of its own would take as long as all that there is to do
    from tasks.registry.versions import resolve

    version = resolve(settings.tracking_uri, model, field="NAME@ALIAS")
    show_export(
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
    from resnet_core.inference.feature_files import KINDS, LAYERS
    from tasks.dataset import load_dataset
    from tasks.export.features import check_wanted

    of: Any = one_of("--layer", layer, LAYERS)
    wanted: Any = one_of("--format", kind, KINDS)
    check(dataset)
    check_wanted(wanted, absolute(UPath(output)), load_dataset(dataset).encrypt, in_clear)
    from flows.cli.show_frameworks import show_features
    from flows.features import features as flow

    with resumable():
        show_features(flow(dataset, of, wanted, output, model, in_clear))


def evaluate_by(dataset: str, backend: str, model: str | None) -> None:
    """`grayline evaluate --backend`."""
    from resnet_core.export.formats import BACKENDS, check_installed

    wanted: Any = one_of("--backend", backend, BACKENDS)
    check_installed("--backend", wanted)
    check(dataset)
    from flows.cli.show_frameworks import show_backend
    from flows.evaluate_backend import evaluate_backend

    with resumable():
        show_backend(evaluate_backend(dataset, wanted, model))


def one_of(option: str, word: str, known: tuple[str, ...]) -> str:
    if word not in known:
        raise UserError(f"{option}: {word!r} is none.{nearest(word, list(known))} There are: {', '.join(known)}.")
    return word
