"""Scoring: exactly one row a file, whatever is wrong with it, whatever happened on the way."""

import json
import os
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars
import pytest
from PIL import Image
from upath import UPath

from resnet_core.calibration import Calibration
from resnet_core.classifier import Classifier
from resnet_core.errors import UserError
from resnet_core.grayscale import decode
from resnet_core.read import Limits
from tasks import score
from tasks.values import ModelVersion, Scores
from tests.resnet_core.test_classifier import a_classifier

MODEL = ModelVersion("model", "3", "run")
COLUMNS = [
    "image_id", "uri", "status", "reason", "label", "confidence", "probabilities",
    "prediction_set", "needs_review", "model_name", "model_version", "scored_at",
]  # fmt: skip


@pytest.fixture(autouse=True)
def classifier(monkeypatch: pytest.MonkeyPatch) -> Classifier:
    """An untrained network in place of the registry's, which tests/flows covers."""
    ours = a_classifier()
    monkeypatch.setattr(score, "load_classifier", lambda *place: ours)
    monkeypatch.setattr(score, "create_markdown_artifact", lambda *page, **more: None)
    return ours


def classify(source: Path, output: Path, stop_after: int | None = None, model: ModelVersion = MODEL) -> Scores:
    batch = score.plan_batch.fn(str(source), UPath(output), model)
    for part in batch.waiting[:stop_after]:
        score.score_part.fn(part, model, "", "cpu", Limits())
    return score.finish_batch.fn(batch, 1.0)


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


def test_a_row_a_file_and_bad_files_are_rows_with_a_reason(digit_folder: Path, tmp_path: Path) -> None:
    broken = break_some(digit_folder)
    (digit_folder / "notes.txt").write_text("a sidecar")
    scores = classify(digit_folder, tmp_path / "out")
    assert (scores.files, scores.scored, scores.failed) == (205, 200, 5)
    rows = pd.read_parquet(tmp_path / "out")
    assert list(rows.columns) == COLUMNS
    assert sorted(rows["uri"]) == sorted(str(f) for f in digit_folder.rglob("*") if f.is_file() and f.suffix != ".txt")
    bad = rows[rows["status"] == "failed"]
    assert {Path(uri).name for uri in bad["uri"]} == broken
    assert bad["reason"].str.len().min() > 5
    assert bad[["label", "confidence", "probabilities"]].isna().all(axis=None)
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert (manifest["files"], manifest["failed"], manifest["ignored"]) == (205, 5, ["notes.txt"])
    assert sum(manifest["parts"].values()) == 205


def test_every_row_has_the_prediction_of_its_own_file(
    digit_folder: Path, tmp_path: Path, classifier: Classifier
) -> None:
    break_some(digit_folder)
    classify(digit_folder, tmp_path / "out")
    rows = pd.read_parquet(tmp_path / "out").query("status == 'ok'")
    for row in rows.sample(40, random_state=0).itertuples():
        (expected,) = classifier.predict([decode(Path(row.uri).read_bytes())])
        np.testing.assert_allclose(row.probabilities, expected.probabilities, atol=1e-5)
        assert row.label == expected.label
        assert row.confidence == pytest.approx(expected.confidence, abs=1e-5)
        assert (row.model_name, row.model_version) == ("model", "3")


def test_rows_say_when_a_person_should_see_them(
    digit_folder: Path, tmp_path: Path, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_some(digit_folder)
    ours = replace(classifier, calibration=Calibration(0.7, (0.3, 1.0, 0.5), 0.9, 0.97, "validation", 50))
    monkeypatch.setattr(score, "load_classifier", lambda *place: ours)
    scores = classify(digit_folder, tmp_path / "out")
    rows = pd.read_parquet(tmp_path / "out")
    good = rows[rows["status"] == "ok"]
    for row in good.sample(30, random_state=0).itertuples():
        (expected,) = ours.predict([decode(Path(row.uri).read_bytes())])
        assert row.label == expected.label
        assert row.confidence == pytest.approx(expected.confidence, abs=1e-5)
        assert tuple(row.prediction_set) == expected.prediction_set
        assert row.needs_review == (len(row.prediction_set) != 1)
    assert rows.loc[rows["status"] == "failed", ["prediction_set", "needs_review"]].isna().all(axis=None)
    assert scores.review == good["needs_review"].sum() > 0
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert manifest["needs_review"] == scores.review


def test_a_version_without_sets_says_nothing_of_review(digit_folder: Path, tmp_path: Path) -> None:
    assert classify(digit_folder, tmp_path / "out").review is None
    rows = pd.read_parquet(tmp_path / "out")
    assert rows[["prediction_set", "needs_review"]].isna().all(axis=None)


def test_other_readers_read_the_scores(digit_folder: Path, tmp_path: Path) -> None:
    classify(digit_folder, tmp_path / "out")
    pattern = f"{tmp_path}/out/*.parquet"
    assert duckdb.sql(f"select count(*) from '{pattern}' where len(probabilities) = 3").fetchall() == [(200,)]
    assert polars.read_parquet(pattern)["status"].unique().to_list() == ["ok"]


def test_an_interrupted_batch_goes_on_with_what_it_lacks(digit_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        classify(digit_folder, tmp_path / "out", stop_after=2)
    assert not (tmp_path / "out" / "_manifest.json").exists()
    done = {path: os.stat(path).st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    assert len(done) == 2
    scores = classify(digit_folder, tmp_path / "out")
    assert scores.reused == 128
    assert all(os.stat(path).st_mtime_ns == before for path, before in done.items())
    assert len(pd.read_parquet(tmp_path / "out")) == 200


def test_files_that_came_and_went_are_rows_that_come_and_go(digit_folder: Path, tmp_path: Path) -> None:
    classify(digit_folder, tmp_path / "out")
    next(digit_folder.glob("1/*.png")).unlink()
    Image.new("L", (8, 8)).save(digit_folder / "new.png")
    classify(digit_folder, tmp_path / "out")
    uris = pd.read_parquet(tmp_path / "out")["uri"].tolist()
    assert sorted(uris) == sorted(str(path) for path in digit_folder.rglob("*.png"))


def test_the_rows_must_be_the_files_or_the_batch_is_not_done(digit_folder: Path, tmp_path: Path) -> None:
    classify(digit_folder, tmp_path / "out")
    part = max((tmp_path / "out").glob("*.parquet"), key=os.path.getsize)
    rows = pd.read_parquet(part)
    pd.concat([rows, rows[:1]]).to_parquet(part)
    with pytest.raises(RuntimeError, match=r"rows for .* files; the batch is not complete"):
        classify(digit_folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda source, output: (source / "1").rename(output.parent / "elsewhere"), None),
        (lambda source, output: classify(source, output, model=ModelVersion("model", "2", "r")), "holds a batch of"),
        (lambda source, output: foreign(output), "Parquet files of something else"),
    ],
)
def test_an_output_that_is_taken_is_left_alone(
    digit_folder: Path, tmp_path: Path, prepare: object, message: str | None
) -> None:
    output = tmp_path / "out"
    prepare(digit_folder, output)  # type: ignore[operator]
    before = sorted(output.rglob("*"))
    if message is None:
        classify(digit_folder, output)
        return
    with pytest.raises(UserError, match=message):
        classify(digit_folder, output)
    assert sorted(output.rglob("*")) == before


def foreign(output: Path) -> None:
    output.mkdir()
    pd.DataFrame({"a": [1]}).to_parquet(output / "theirs.parquet")


def test_a_source_that_cannot_be_meant_is_the_users_error(digit_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, output, message in (
        (tmp_path / "none", tmp_path / "out", "there is no such folder"),
        (tmp_path / "empty", tmp_path / "out", "holds no images"),
        (digit_folder, digit_folder / "out", "lies in the source"),
    ):
        with pytest.raises(UserError, match=message):
            classify(source, output)
        assert not output.exists()
