"""A batch in a process of its own, which may be ended at any moment. What is imported here is imported once, in the
process that others are forked from."""

import os
from typing import Any

from upath import UPath

from resnet_core.images.limits import Limits
from resnet_core.inference.engines import Engine
from tasks.batch import finish as finish_batch
from tasks.batch import plan as plan_batch
from tasks.batch import score
from tasks.batch.values import EngineChoice
from tasks.values import ModelVersion
from tests.resnet_core.model.test_classifier import a_classifier

MODEL = ModelVersion("model", "3", "run")


def batch(source: str, output: str, ready: Any = None, environment: dict[str, str] | None = None) -> None:
    """The batch from its listing to its manifest, as the flow runs it, in this process."""
    os.environ.update(environment or {})
    ours = a_classifier()
    score.load_classifier = lambda *place: ours  # type: ignore[assignment]
    score.open_engine = lambda *choice: Engine("torch", ours.probabilities, 64)  # type: ignore[assignment]
    finish_batch.publish_page = lambda *page, **more: None  # type: ignore[assignment]
    if ready:
        ready.set()
    work = plan_batch.plan_batch.fn(source, UPath(output), MODEL, ours.preprocessing)
    how = score.Scoring(
        MODEL, EngineChoice("torch", 64, 1, 0.0), "", "cpu", Limits(), work.run, work.known, 0.0, work.tried
    )
    for part in work.waiting:
        score.score_part.fn(part, how)
    finish_batch.finish_batch.fn(work, 1.0)
