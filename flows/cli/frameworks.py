"""The commands for other frameworks. Heavy imports wait inside the commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import DatasetFile, Model, ModelOption, check, choice, ready
from flows.cli.tables import console, number, say, table
from resnet_core.errors import plural
from resnet_core.storage.files import to_output
from tasks.settings import Settings, check_there

if TYPE_CHECKING:
    from tasks.export.backends import BackendAccuracy
    from tasks.export.export import Export
    from tasks.export.features import FeatureSet

app = typer.Typer()


@app.command()
def export(
    model: Model,
    kind: Annotated[str, typer.Option("--format", help="onnx, litert, torch (a .pt2 file) or int8.")],
    output: Annotated[str, typer.Option("--output", "-o", help="The file to write.")],
    allow_difference: Annotated[bool, typer.Option(help="Write it even if it differs from the model.")] = False,
) -> None:
    """Write a version as a file for another framework, checked on held-out images before it appears."""
    from resnet_core.export.formats import FORMATS
    from tasks.export.export import check_place
    from tasks.export.export import export as write

    file_format = choice("--format", kind, FORMATS)
    to = to_output(output, "-o")
    check_place(to, file_format)
    settings = Settings()
    check_there(settings)
    if settings.prefect_api_url:
        ready(fans_out=False)
        from flows.export import export as flow

        _show_export(flow(model, file_format, output, allow_difference))
        return
    from tasks.registry.versions import resolve
    from tasks.workspace import workspace

    here = workspace().with_known_keys()  # without a server, the flow would take longer than the work itself
    version = resolve(here.tracking_uri, model, field="NAME@ALIAS")
    _show_export(write(version, file_format, to, here, allow_difference))


def _show_export(result: Export) -> None:
    """Print how far the file is from the model, and where it is."""
    version = result.version
    say(f"{version} as {result.kind}, on {plural(result.count, 'held-out image')}:")
    rows = table("", "PyTorch", result.kind, "difference")
    points = 100 * (result.accuracy - result.own_accuracy)
    rows.add_row("accuracy", f"{result.own_accuracy:.4f}", f"{result.accuracy:.4f}", f"{points:+.2f} points")
    rows.add_row("probabilities", "", "", f"at most {result.difference:.1e}")
    console.print(rows)
    if result.wrong:
        say(f"allowed to differ: {result.wrong}")
    say("the file gives probabilities alone: it calls no image unknown")
    say(f"{result.size / 1e6:,.1f} MB in {result.seconds:,.0f} s", str(result.path))


@app.command()
def features(
    dataset: DatasetFile,
    layer: Annotated[str, typer.Option(help="stem, stage1 to stage4, pool (classified) or logits.")],
    kind: Annotated[str, typer.Option("--format", help="safetensors, npz, parquet or tfrecord.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder to write to.")],
    model: ModelOption = None,
    in_clear: Annotated[bool, typer.Option(help="Write those of an encrypted data set, too.")] = False,
) -> None:
    """Write a layer's output for every image of a data set, or resume an interrupted run."""
    from resnet_core.inference.feature_files import KINDS
    from resnet_core.model.features import LAYERS
    from tasks.dataset import load_dataset
    from tasks.export.features import check_wanted

    stage = choice("--layer", layer, LAYERS)
    file_format = choice("--format", kind, KINDS)
    check(dataset)
    check_wanted(file_format, to_output(output, "-o"), load_dataset(dataset).encrypt, in_clear)
    from flows.features import features as flow

    _show_features(flow(dataset, stage, file_format, output, model, in_clear))


def _show_features(result: FeatureSet) -> None:
    version, shape = result.version, " x ".join(str(side) for side in result.shape)
    again = f", {result.reused:,} of them done in an earlier run" if result.reused else ""
    say(
        f"{result.layer} of {version}: float32 {shape} for {result.count:,} "
        f"images{again}, in {result.files:,} {result.kind} files",
        str(result.folder),
        "",
    )


def evaluate_by(dataset: str, backend: str, model: str | None) -> None:
    """Measure a version by another framework: `grayline evaluate --backend`."""
    from resnet_core.export.formats import BACKENDS, check_installed

    framework = choice("--backend", backend, BACKENDS)
    check_installed("--backend", framework)
    check(dataset)
    from flows.evaluate_backend import evaluate_backend

    _show_backend(evaluate_backend(dataset, framework, model))


def _show_backend(result: BackendAccuracy) -> None:
    """Print accuracy and speed of PyTorch and of the other framework."""
    version = result.version
    title = f"{version} on {plural(result.count, 'held-out image')}"
    rows = table("by", number("accuracy"), number("images/s"), title=title)
    rows.add_row("PyTorch", f"{result.own_accuracy:.4f}", f"{result.own_speed:,.0f}")
    rows.add_row(result.backend, f"{result.accuracy:.4f}", f"{result.speed:,.0f}")
    console.print(rows)
    points = 100 * (result.accuracy - result.own_accuracy)
    say(f"{points:+.2f} points apart; a probability differs by at most {result.difference:.1e}", "")
