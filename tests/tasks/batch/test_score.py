"""Scoring: exactly one row a file, whatever is wrong with it."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.images.decode import decode
from resnet_core.images.preprocessing import resize
from resnet_core.inference.scores import SCHEMA
from resnet_core.model.calibration import Calibration
from resnet_core.model.classifier import Classifier
from resnet_core.model.features import embed
from resnet_core.shards import format as shards
from tasks.batch import finish as finish_batch
from tasks.batch import plan as plan_batch
from tasks.batch.progress import TooManyBadError, watched
from tasks.batch.values import Batch, PartOutcome
from tests.resnet_core.model.test_classifier import a_classifier
from tests.scoring import MODEL, break_some, classify, plan, rows_of, use

CONTRACT = [
    "image_id", "uri", "status", "reason_code", "reason", "label", "confidence", "probabilities",
    "model_name", "model_version", "scored_at",
]  # fmt: skip


@pytest.fixture(autouse=True)
def classifier(monkeypatch: pytest.MonkeyPatch) -> Classifier:
    """An untrained network in place of the registry's, which tests/flows covers."""
    ours = a_classifier()
    use(ours, monkeypatch)
    monkeypatch.setattr(finish_batch, "publish_page", lambda *page, **more: None)
    return ours


def test_a_row_a_file_and_bad_files_are_rows_with_a_reason(digit_folder: Path, tmp_path: Path) -> None:
    broken = break_some(digit_folder)
    for name in ("notes.txt", 'a "b"\n.json'):
        (digit_folder / name).write_text("a sidecar")
    scores = classify(digit_folder, tmp_path / "out")
    assert (scores.files, scores.scored, scores.failed) == (205, 200, 5)
    rows = pd.read_parquet(tmp_path / "out")
    assert list(rows.columns) == SCHEMA.names
    assert set(CONTRACT) < set(SCHEMA.names)
    assert sorted(rows["uri"]) == sorted(
        str(f) for f in digit_folder.rglob("*") if f.is_file() and f.suffix not in (".txt", ".json")
    )
    bad = rows[rows["status"] == "failed"]
    assert {Path(uri).name for uri in bad["uri"]} == broken
    assert bad["reason"].str.len().min() > 5
    assert bad[["label", "confidence", "probabilities"]].isna().all(axis=None)
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert (manifest["files"], manifest["failed"], manifest["ignored"]) == (205, 5, ['a "b"\n.json', "notes.txt"])
    assert sum(manifest["parts"].values()) == 205


@pytest.mark.parametrize(("name", "text"), [("l.csv", "path;class;target\n{}"), ("l.tsv", "path\n{}"), ("l.txt", "{}")])
def test_a_list_of_paths_is_scored_and_a_path_to_nothing_is_a_row(
    digit_folder: Path, tmp_path: Path, name: str, text: str
) -> None:
    files = sorted(path for path in digit_folder.rglob("*") if path.is_file())[:3]
    paths = [os.path.relpath(files[0], tmp_path), str(files[1]), os.path.relpath(files[2], tmp_path), "none.png", "."]
    (tmp_path / name).write_text(text.format("\n".join(paths)))
    scores = classify(tmp_path / name, tmp_path / "out")
    assert (scores.files, scores.scored, scores.failed) == (5, 3, 2)
    rows = pd.read_parquet(tmp_path / "out").set_index("uri")
    assert set(rows.index) == {*map(str, files), f"{tmp_path}/none.png", str(tmp_path)}
    assert set(rows.query("status == 'failed'")["reason_code"]) == {"unreachable"}
    assert "No such file" in rows.loc[f"{tmp_path}/none.png", "reason"]


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
    use(ours, monkeypatch)
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


def test_shards_are_a_source_whose_pixels_are_taken_as_they_are(
    digits: tuple[np.ndarray, list[str]], tmp_path: Path, classifier: Classifier
) -> None:
    size = classifier.preprocessing.size
    pixels = np.stack([resize(image, classifier.preprocessing) for image in digits[0][:150]])
    ids = [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels]
    facts = shards.metadata(["0"], classifier.preprocessing)
    (tmp_path / "shards").mkdir()
    for name, some in (("a", slice(0, 100)), ("b", slice(100, 150))):
        columns = (pa.array([value] * len(ids[some])) for value in ("0", "train", 1.0))
        table = shards.make_table(pa.array(ids[some]), *columns, pixels[some], facts)
        shards.write_table(table, tmp_path / "shards" / f"{name}.parquet", None)
    (tmp_path / "shards" / "_manifest.json").write_text("{}")
    scores = classify(tmp_path / "shards", tmp_path / "out")
    assert (scores.files, scores.failed) == (150, 0)
    assert json.loads((tmp_path / "out" / "_manifest.json").read_text())["ignored"] == ["_manifest.json"]
    rows = pd.read_parquet(tmp_path / "out").set_index("image_id")
    found = np.stack(rows.loc[ids, "probabilities"].tolist())
    np.testing.assert_allclose(found, classifier.probabilities(pixels), atol=1e-6)
    np.testing.assert_allclose(rows.loc[ids, "brightness"], pixels.reshape(150, -1).mean(1), rtol=1e-5)
    assert rows.loc[ids[120], "uri"] == f"{tmp_path}/shards/b.parquet#row=20"
    other = replace(classifier.preprocessing, resize="crop")
    with pytest.raises(UserError, match=rf"holds pixels made with {size} px, fit"):
        plan_batch.plan_batch.fn(str(tmp_path / "shards"), UPath(tmp_path / "x"), MODEL, other)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "shards" / "c.parquet")
    with pytest.raises(UserError, match=r"c\.parquet: not a shard"):
        classify(tmp_path / "shards", tmp_path / "out")


def test_embeddings_of_all_images_or_of_the_same_few(
    digit_folder: Path, tmp_path: Path, classifier: Classifier
) -> None:
    break_some(digit_folder)
    classify(digit_folder, tmp_path / "all", embedded=1.0, embeddings=True)
    rows = pd.read_parquet(tmp_path / "all")
    assert (rows["embedding"].notna() == (rows["status"] == "ok")).all()
    row = rows[rows["status"] == "ok"].iloc[7]
    levels = resize(decode(Path(row.uri).read_bytes()), classifier.preprocessing)
    np.testing.assert_allclose(row.embedding, embed(classifier, levels[None])[0], atol=1e-5)
    for name in ("some", "same"):
        classify(digit_folder, tmp_path / name, embedded=0.25)
    some, same = (rows_of(tmp_path / name).dropna(subset="embedding")["uri"] for name in ("some", "same"))
    assert 25 < len(some) < 75
    assert some.tolist() == same.tolist()


def test_a_batch_with_too_many_bad_files_is_stopped(digit_folder: Path, tmp_path: Path) -> None:
    break_some(digit_folder)
    batch = plan(digit_folder, tmp_path / "out")
    parts = [PartOutcome(60, 1, {"a": 59}), PartOutcome(60, 0, {"a": 60}), PartOutcome(85, 4, {"b": 81})]
    tell(batch, 0.05, parts)
    with pytest.raises(TooManyBadError, match=r"5 of the first 205 files are bad, more than --fail-over 0\.02"):
        tell(batch, 0.02, parts)


def tell(batch: Batch, fail_over: float, parts: list[PartOutcome]) -> None:
    with watched(batch, fail_over) as watch:
        for part in parts:
            watch(part)


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
        (lambda source, output: classify(source / "2", output), "holds a batch of"),
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


@pytest.mark.parametrize("source", ["in", "in/**", "link", "link/**", "in/../in"])
def test_an_output_within_the_source_is_not_scored_itself(
    digit_folder: Path, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once with the rows of the first run there, and once with those of another batch."""
    digit_folder.rename(tmp_path / "in")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    for output in ("in/scores", "in/scores", "in/more/scores", "in/more/scores"):
        scores = classify(source, tmp_path / output)  # type: ignore[arg-type]
        assert (scores.files, scores.failed) == (200, 0)
    assert json.loads((tmp_path / "in/more/scores/_manifest.json").read_text())["ignored"] == [
        "more/scores/",
        "scores/",
    ]
    assert scores.ignored == 2


def test_a_source_that_cannot_be_meant_is_the_users_error(digit_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, output, message in (
        (tmp_path / "none", tmp_path / "out", "there is no such folder"),
        (tmp_path / "empty", tmp_path / "out", "holds no images"),
        (f"{digit_folder}/**", digit_folder, "is the source"),
        (digit_folder, Path("/proc/out"), "cannot write under /proc/out"),
    ):
        with pytest.raises(UserError, match=message):
            classify(source, output)
        assert output == digit_folder or not output.exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write under"):
        classify(digit_folder, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
