"""Bulk scoring: every file of a source gets one row, whatever is wrong with it."""

import time
from datetime import UTC, datetime

from prefect import flow
from upath import UPath

from resnet_core.files import absolute
from tasks.registry import resolve
from tasks.runner import fan_out, task_runner
from tasks.score import finish_batch, plan_batch, score_part
from tasks.settings import Settings, check_store
from tasks.values import Scores


@flow(name="classify-batch", task_runner=task_runner())
def classify_batch(source: str, output: str | None = None, model: str | None = None) -> Scores:
    """Score every image of a folder with a registered model.

    A batch that was interrupted goes on where it stopped, when it is given the same output.

    Args:
        source: Folder, glob, tar, zip, Parquet with image bytes, IDX or manifest, or a URL of one; all of it is scored.
        output: Folder for the Parquet files and the manifest; by default a new one under scores/.
        model: NAME@ALIAS or NAME/VERSION; by default the champion of the only model there is.
    """
    settings = Settings()
    check_store(settings.root)
    started = time.monotonic()
    version = resolve(settings.tracking_uri, model)
    folder = absolute(UPath(output)) if output else settings.root / "scores" / new_name(version.name)
    batch = plan_batch(source, folder, version)
    fan_out(
        "score",
        lambda part: score_part.submit(part, version, settings.tracking_uri, settings.device, settings.limits),
        batch.waiting,
        sum(part.count for part in batch.waiting),
    )
    return finish_batch(batch, time.monotonic() - started)


def new_name(model: str) -> str:
    """Sorts by time: 20261124T020000-elpv."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{model}"
