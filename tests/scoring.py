"""A batch from its listing to its manifest in this process, by an untrained network, without Prefect."""

import os
from pathlib import Path

import pandas as pd
import pytest
from upath import UPath

from resnet_core.images.limits import Limits
from resnet_core.inference.engines import Engine
from resnet_core.model.classifier import Classifier
from tasks.batch import finish as finish_batch
from tasks.batch import plan as plan_batch
from tasks.batch import score
from tasks.batch.values import Batch, EngineChoice, Scores
from tasks.values import ModelVersion
from tests.resnet_core.model.test_classifier import a_classifier

MODEL = ModelVersion("model", "3", "run")
CHOICE = EngineChoice("torch", 64, 1, 0.0)


def use(ours: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score, "load_classifier", lambda *place: ours)
    engine = Engine("torch", ours.probabilities, 64, answer=ours.answer)
    monkeypatch.setattr(score, "open_engine", lambda *choice: engine)


def plan(source: Path, output: Path, model: ModelVersion = MODEL, **wanted: bool) -> Batch:
    return plan_batch.plan_batch.fn(str(source), UPath(output), model, a_classifier().preprocessing, **wanted)


def classify(
    source: Path,
    output: Path,
    stop_after: int | None = None,
    model: ModelVersion = MODEL,
    embedded: float = 0.0,
    **wanted: bool,
) -> Scores:
    batch = plan(source, output, model, **wanted)
    how = score.Scoring(model, CHOICE, "", "cpu", Limits(), batch.run, batch.known, embedded, batch.tried)
    again = sum(score.score_part.fn(part, how).again for part in batch.waiting[:stop_after])
    return finish_batch.finish_batch.fn(batch, 1.0, again=again)


def rows_of(output: Path) -> pd.DataFrame:
    """All that does not depend on when and in which run, in an order of its own."""
    rows = pd.read_parquet(output)
    return rows.drop(columns=["scored_at"]).sort_values("uri").reset_index(drop=True)


def times(output: Path) -> dict[str, int]:
    return {path.name: os.stat(path).st_mtime_ns for path in output.glob("*.parquet")}


def break_some(folder: Path) -> set[str]:
    """Five files that cannot be scored."""
    whole = next(folder.rglob("*.png")).read_bytes()
    broken = {
        "empty.png": b"",
        "cut.jpg": whole[:60],
        "text.png": b"no image",
        "zeros.tif": bytes(500),
        "odd name\n.png": whole[: len(whole) // 2],
    }
    for name, content in broken.items():
        (folder / name).write_bytes(content)
    return set(broken)
