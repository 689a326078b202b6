"""Export: a version as one file for another framework, checked before it appears."""

import logging
import time
from dataclasses import asdict, dataclass

from prefect import task
from upath import UPath

from resnet_core.errors import JobError, UserError
from resnet_core.export import formats as export_formats
from resnet_core.export.formats import SUFFIX, Agreement, Format, check_installed, compare
from resnet_core.export.graph import describe, trace
from resnet_core.storage.files import write_whole
from tasks.artifacts import publish_table
from tasks.progress import progress
from tasks.registry.images import images_of
from tasks.registry.versions import load_classifier
from tasks.values import ModelVersion
from tasks.workspace import Workspace


@dataclass(frozen=True)
class Export:
    """A file of `size` bytes for another framework, checked on `count` held-out images.

    `difference` is the largest between two probabilities; `wrong` is the reason why the check failed, if that was
    allowed.
    """

    version: ModelVersion
    kind: str
    path: UPath
    size: int
    count: int
    difference: float
    accuracy: float
    own_accuracy: float
    seconds: float
    wrong: str = ""


log = logging.getLogger("grayline")

LARGEST = 1e-4  # of the differences between two probabilities that are let through
_LOSS = 0.005  # of accuracy that int8 may cost
_ROUNDING = 1e-9  # of a difference of two shares
_CHECKED = 4096  # held-out images that a file is checked on
_CALIBRATED = 512  # training images that the scales of int8 are measured on


class ExportError(JobError):
    """The file's outputs differ from the model's."""


def check_place(output: UPath, kind: Format) -> None:
    """Raises UserError for a file name that its readers would not open, and for missing packages."""
    check_installed("--format", kind)
    if output.suffix != SUFFIX[kind]:
        raise UserError(f"-o: {output.name} should end in {SUFFIX[kind]}, as files of --format {kind} do.")
    if output.is_dir():
        raise UserError(f"-o: {output} is a folder. Name a file in it.")


def export(
    model: ModelVersion,
    kind: Format,
    output: UPath,
    here: Workspace,
    allow_difference: bool = False,
) -> Export:
    """Write the file beside its place, run it on held-out images, and rename it if it agrees.

    Raises ExportError if it differs, unless that is allowed. The file's own runtime runs it.
    """
    check_place(output, kind)
    started = time.monotonic()
    classifier = load_classifier(here.tracking_uri, model, "cpu")
    known = images_of(model, here)
    log.info("export      %s version %s to %s", model.name, model.version, kind)
    pixels = known.sample(_CALIBRATED) if kind == "int8" else None
    with write_whole(output) as draft:
        export_formats.write(kind, trace(classifier), describe(classifier, model.name, model.version), draft, pixels)
        run = export_formats.load(export_formats.runtime_of(kind), draft)
        with progress("verify", min(known.shard_set.test, _CHECKED)) as advance:
            found = compare(classifier, run, known.split("test"), _CHECKED, advance)
        wrong = what_is_wrong(kind, found)
        if wrong and not allow_difference:
            raise ExportError(f"{wrong}; {output} was not written. --allow-difference writes it all the same.")
        size = draft.stat().st_size
    return Export(
        model, kind, output, size, found.count, found.difference, found.accuracy, found.own_accuracy,
        time.monotonic() - started, wrong,
    )  # fmt: skip


def what_is_wrong(kind: Format, found: Agreement) -> str:
    """Return the difference that is too large, or an empty text. For int8 the accuracy counts, otherwise each
    probability.
    """
    if kind != "int8":
        if found.difference <= LARGEST:
            return ""
        return f"a probability differs by {found.difference:.2g}, over the {LARGEST:g} that rounding explains"
    loss = found.own_accuracy - found.accuracy
    if loss <= _LOSS + _ROUNDING:
        return ""
    return f"accuracy falls by {100 * loss:.2f} points, over the {100 * _LOSS:g} that int8 may cost"


@task(name="export")
def export_on_record(
    model: ModelVersion,
    kind: Format,
    output: UPath,
    here: Workspace,
    allow_difference: bool = False,
) -> Export:
    """Run `export`, and publish the outcome."""
    made = export(model, kind, output, here, allow_difference)
    publish_table(
        [{name: str(value) for name, value in asdict(made).items() if name != "version"}],
        key="export",
        description=f"{model} as {kind}",
    )
    return made
