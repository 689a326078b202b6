"""Predict some images at once, without a flow or a server. Heavy imports wait inside the command."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import ModelOption
from flows.cli.tables import console, number, say, table
from resnet_core.errors import UserError, plural
from resnet_core.storage.names import json_line
from tasks.settings import Settings, check_there

if TYPE_CHECKING:
    import pyarrow as pa

    from resnet_core.inference.single import Prediction

app = typer.Typer()


@app.command()
def predict(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Images, folders, globs or archives.")],
    model: ModelOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON per image.")] = False,
) -> None:
    """Print the classes of some images; nothing is kept. `classify-batch` scores collections."""
    settings = Settings()
    check_there(settings)
    files = _list_all(images)
    from resnet_core.inference.single import predict_files
    from resnet_core.reading import pool
    from tasks.progress import progress
    from tasks.registry.direct import load

    pool.start()  # it gets ready while the version is found
    version, classifier = load(settings.tracking_uri, model, settings.device)
    found = []
    with progress("predict", len(files)) as advance:
        for prediction in predict_files(classifier, files, settings.limits):
            found.append(prediction)
            if as_json:
                print(json_line(asdict(prediction)), flush=True)  # noqa: T201
            advance(1)
    if not as_json:
        _show(found, f"{version.name} version {version.version}")
    sys.exit(0 if any(each.label is not None for each in found) else 1)


def _list_all(places: list[str]) -> pa.Table:
    """Return the listing of all places. Raises UserError, before anything is loaded, for one that is missing."""
    import pyarrow as pa

    from resnet_core.sources.listing import LISTING, NO_LABELS
    from resnet_core.sources.source import list_file, list_source, source_kind

    tables: list[pa.Table] = []
    for place in places:
        if (file := list_file(place)) is not None:
            tables.append(_named(file, [place]))
            continue
        try:
            kind = source_kind(place)
            if kind == "manifest":
                raise UserError(f"{place}: is a list, not an image. Score it by `grayline classify-batch`.")
            for batch in list_source(place, label_column=NO_LABELS):
                within = batch["uri" if kind == "glob" else "path"].to_pylist()
                tables.append(
                    _named(batch, [path if kind == "glob" else f"{place.rstrip('/')}/{path}" for path in within])
                )
        except UserError as error:
            raise UserError(str(error).replace("Correct `source:`", "Correct the path")) from None
    files = pa.concat_tables([LISTING.empty_table(), *tables])
    files = files.filter(pa.compute.invert(files["ignored"]))
    if not len(files):
        raise UserError(f"{', '.join(places)}: holds no images. Give images, or a folder of some.")
    return files


def _named(batch: pa.RecordBatch, names: list[str]) -> pa.Table:
    """Return a listing whose paths are as the user would write them."""
    import pyarrow as pa

    place = batch.schema.get_field_index("path")
    return pa.Table.from_batches([batch]).set_column(place, batch.schema.field(place), [names])


def _show(found: list[Prediction], title: str) -> None:
    """Print a row per image: label, confidence, and why to look at it: unknown, or not exactly one plausible class."""
    rows = table("image", "label", number("confidence"), "look at it", title=title)
    for each in found:
        if each.label is None or each.confidence is None:
            rows.add_row(each.image, "", "", f"not read: {each.reason}", style="red")
            continue
        reasons = [f"unknown (p {each.novelty:.2g})"] if each.unknown else []
        if each.prediction_set is not None and len(each.prediction_set) != 1:
            reasons.append(" or ".join(each.prediction_set) or "like no class")
        look = "; ".join(reasons)
        rows.add_row(each.image, each.label, f"{each.confidence:.3f}", look, style="yellow" if look else "")
    console.print(rows)
    unread = sum(each.label is None for each in found)
    review, unknown = sum(bool(each.needs_review) for each in found), sum(bool(each.unknown) for each in found)
    some = f" ({unknown:,} unknown)" if unknown else ""
    say("", f"{plural(len(found), 'image')}: {review:,} to look at{some}, {unread:,} not read")
    if unread < len(found) and all(each.unknown is None for each in found):
        say(f"{title} keeps nothing to tell unknown images by: `evaluate: {{novelty: 0.05}}` and the next night do.")
