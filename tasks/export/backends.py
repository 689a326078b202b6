"""Backends: the accuracy of a version by another framework's runtime and metric, beside PyTorch's."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import task

from resnet_core.errors import JobError, plural
from resnet_core.export import formats as export_formats
from resnet_core.export.formats import RUNS, Backend, compare
from resnet_core.export.graph import describe, trace
from resnet_core.shards import format as shards
from tasks.artifacts import publish_table
from tasks.progress import progress
from tasks.registry import runs as tracking
from tasks.registry.images import check_fits
from tasks.registry.versions import load_classifier
from tasks.values import ModelVersion, ShardSet
from tasks.workspace import Workspace


@dataclass(frozen=True)
class BackendAccuracy:
    """The accuracy of a version on `count` held-out images by another framework and by PyTorch; speeds in images/s."""

    version: ModelVersion
    backend: str
    count: int
    accuracy: float
    own_accuracy: float
    difference: float
    speed: float
    own_speed: float


_ROUNDING = 1e-6  # of an accuracy: TensorFlow counts in float32
_MOST_APART = 0.001  # of accuracy: what rounding may cost on images that lie between two classes


class BackendError(JobError):
    """The other framework measures another accuracy."""


@task
def measure(model: ModelVersion, backend: Backend, shard_set: ShardSet, here: Workspace) -> BackendAccuracy:
    """Export the version, and score all held-out images by PyTorch and by the framework.

    Raises UserError if the version needs other pixels or classes than the shards have. Raises BackendError if the
    two accuracies differ.
    """
    classifier = load_classifier(here.tracking_uri, model, "cpu")
    check_fits(model, classifier, shard_set)
    with tempfile.TemporaryDirectory() as folder:
        kind = RUNS[backend]
        path = Path(folder) / f"model{export_formats.SUFFIX[kind]}"
        export_formats.write(kind, trace(classifier), describe(classifier, model.name, model.version), path)
        run = export_formats.load(backend, path)
        held_out = shards.iterate(shard_set.files, "test", shard_set.classes, here.keys)
        with progress("evaluate", shard_set.test) as advance:
            found = compare(classifier, run, held_out, shard_set.test, advance)
    accuracy, own = export_formats.accuracy(backend, found.labels, found.exported), found.own_accuracy
    result = BackendAccuracy(
        model, backend, found.count, accuracy, own, found.difference,
        found.count / found.seconds, found.count / found.own_seconds,
    )  # fmt: skip
    tracking.log_metrics(here.tracking_uri, model.run_id, {f"test_accuracy_{backend}": accuracy})
    rows: list[dict[str, Any]] = [
        {"by": backend, "accuracy": accuracy, "images/s": result.speed},
        {"by": "PyTorch", "accuracy": own, "images/s": result.own_speed},
    ]
    publish_table(
        rows,
        key="backend",
        description=f"{model} on {plural(found.count, 'held-out image')}",
    )
    if abs(accuracy - own) > _MOST_APART + _ROUNDING:
        raise BackendError(
            f"{backend} measures an accuracy of {accuracy:.4f} where PyTorch measures {own:.4f}, on "
            f"{plural(found.count, 'image')}; a probability differs by up to {found.difference:.2g}. "
            "Compare the versions of the packages with those in requirements*.lock."
        )
    return result
