"""A batch that was begun before: what it has is not done again, and nothing is there twice."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.images.decode import decode
from resnet_core.images.limits import Limits
from resnet_core.inference.engines import Engine
from resnet_core.model.classifier import Classifier
from resnet_core.reading.pool import iterate_files
from tasks.batch import finish as finish_batch
from tasks.batch import folder as batch_folder
from tasks.batch import score
from tasks.batch.folder import SupersededError
from tasks.batch.manifest import read_manifest
from tasks.batch.score import read_images
from tasks.values import ModelVersion
from tests.resnet_core.model.test_classifier import a_classifier
from tests.scoring import CHOICE, MODEL, break_some, classify, plan, rows_of, times, use


@pytest.fixture(autouse=True)
def classifier(monkeypatch: pytest.MonkeyPatch) -> Classifier:
    """An untrained network in place of the registry's, which tests/flows covers."""
    ours = a_classifier()
    use(ours, monkeypatch)
    monkeypatch.setattr(finish_batch, "publish_page", lambda *page, **more: None)
    return ours


def test_an_interrupted_batch_goes_on_with_what_it_lacks(digit_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        classify(digit_folder, tmp_path / "out", stop_after=2)
    assert not (tmp_path / "out" / "_manifest.json").exists()
    done = times(tmp_path / "out")
    assert len(done) == 2
    scores = classify(digit_folder, tmp_path / "out")
    assert scores.reused == 128
    assert done.items() <= times(tmp_path / "out").items()
    classify(digit_folder, tmp_path / "undisturbed")
    pd.testing.assert_frame_equal(rows_of(tmp_path / "out"), rows_of(tmp_path / "undisturbed"))


def test_a_second_run_does_nothing_and_changes_nothing(digit_folder: Path, tmp_path: Path) -> None:
    break_some(digit_folder)
    first = classify(digit_folder, tmp_path / "out")
    done = times(tmp_path / "out")
    second = classify(digit_folder, tmp_path / "out")
    assert (second.reused, second.scored, second.failed) == (205, first.scored, first.failed)
    assert times(tmp_path / "out") == done


def test_the_manifest_says_which_engines_were_not_used(digit_folder: Path, tmp_path: Path) -> None:
    classify(digit_folder, tmp_path / "out")
    batch, why = plan(digit_folder, tmp_path / "out"), {"int8": "38 of 512 decisions differ"}
    finish_batch.finish_batch.fn(batch, 1.0, refused=why)
    assert json.loads((tmp_path / "out" / "_manifest.json").read_text())["engines_not_used"] == why
    assert read_manifest(UPath(tmp_path / "out")).refused == why


def test_files_that_came_and_went_are_rows_that_come_and_go(digit_folder: Path, tmp_path: Path) -> None:
    classify(digit_folder, tmp_path / "out")
    next(digit_folder.glob("1/*.png")).unlink()
    Image.new("L", (8, 8), 90).save(digit_folder / "new.png")
    scores = classify(digit_folder, tmp_path / "out")
    assert (scores.files, scores.reused, scores.again) == (200, 199, 0)
    classify(digit_folder, tmp_path / "undisturbed")
    pd.testing.assert_frame_equal(rows_of(tmp_path / "out"), rows_of(tmp_path / "undisturbed"))


def test_what_is_only_touched_or_moved_is_not_computed_again(
    digit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classify(digit_folder, tmp_path / "out")
    touched, moved = sorted(digit_folder.glob("1/*.png"))[:2]
    os.utime(touched, ns=(1, 1))
    moved.rename(digit_folder / "elsewhere.png")
    monkeypatch.setattr(score, "open_engine", lambda *choice: Engine("torch", refuse, 64))
    scores = classify(digit_folder, tmp_path / "out")
    assert (scores.reused, scores.again) == (198, 2)


def refuse(pixels: np.ndarray) -> np.ndarray:
    """An engine that has nothing to do."""
    assert len(pixels) == 0
    return np.empty((0, 3), np.float32)


def test_a_file_with_new_content_is_scored_anew(digit_folder: Path, tmp_path: Path, classifier: Classifier) -> None:
    classify(digit_folder, tmp_path / "out")
    changed = next(digit_folder.glob("1/*.png"))
    Image.effect_noise((9, 9), 90).save(changed)
    scores = classify(digit_folder, tmp_path / "out")
    assert (scores.reused, scores.again, scores.files) == (199, 0, 200)
    row = rows_of(tmp_path / "out").set_index("uri").loc[str(changed)]
    (expected,) = classifier.predict([decode(changed.read_bytes())])
    np.testing.assert_allclose(row.probabilities, expected.probabilities, atol=1e-5)


def test_only_failed_tries_those_and_looks_at_nothing_else(digit_folder: Path, tmp_path: Path) -> None:
    broken = break_some(digit_folder)
    good = next(digit_folder.glob("1/*.png"))
    classify(digit_folder, tmp_path / "out")
    (digit_folder / "cut.jpg").write_bytes(good.read_bytes())  # mended
    Image.new("L", (8, 8), 90).save(digit_folder / "new.png")
    scores = classify(digit_folder, tmp_path / "out", only_failed=True)
    assert (scores.files, scores.scored, scores.failed, scores.reused) == (205, 201, 4, 200)
    rows = rows_of(tmp_path / "out").set_index("uri")
    assert rows.loc[str(digit_folder / "cut.jpg"), "label"] == rows.loc[str(good), "label"]
    assert {Path(uri).name for uri in rows.index[rows["status"] == "failed"]} == broken - {"cut.jpg"}
    assert str(digit_folder / "new.png") not in rows.index
    assert classify(digit_folder, tmp_path / "out").files == 206


def test_only_failed_wants_a_batch_of_the_same_version(digit_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no batch"):
        classify(digit_folder, tmp_path / "out", only_failed=True)
    classify(digit_folder, tmp_path / "out")
    with pytest.raises(UserError, match="was scored by model version 3"):
        classify(digit_folder, tmp_path / "out", model=ModelVersion("model", "4", "run"), only_failed=True)


def test_a_file_that_could_not_be_opened_is_tried_again(digit_folder: Path, tmp_path: Path) -> None:
    files = [*digit_folder.rglob("*.png"), tmp_path / "x.png"]
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"{path},\n" for path in files))
    assert classify(tmp_path / "list.csv", tmp_path / "out").failed == 1
    files[0].rename(tmp_path / "x.png")
    scores = classify(tmp_path / "list.csv", tmp_path / "out")
    assert (scores.failed, scores.scored, scores.reused) == (1, 200, 199)


def test_a_damaged_file_is_read_once_and_known_afterwards(
    digit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = next(digit_folder.glob("1/*.png"))
    content = bytearray(damaged.read_bytes())
    content[-20] ^= 0xFF  # in the compressed levels, whose checksum is wrong then
    damaged.write_bytes(content)
    out_of_reach = digit_folder / "out of reach.png"
    out_of_reach.symlink_to(f"/proc/{os.getpid()}/mem")  # a regular file that nobody can read
    codes = {str(damaged): "damaged", str(out_of_reach): "unreachable"}
    first = classify(digit_folder, tmp_path / "out")
    assert first.reasons == {"damaged": 1, "unreachable": 1}
    read = []
    monkeypatch.setattr(score, "iterate_files", lambda files, *how: read.append(files) or iterate_files(files, *how))
    for _ in range(2):
        scores = classify(digit_folder, tmp_path / "out")
        assert (scores.files, scores.failed, scores.reused) == (201, 2, 200)
        failed = rows_of(tmp_path / "out").query("status == 'failed'")
        assert dict(zip(failed["uri"], failed["reason_code"], strict=True)) == codes
    assert [uri for files in read for uri in files["uri"].to_pylist()] == [str(out_of_reach)] * 2


def test_rows_without_reason_codes_are_known(digit_folder: Path, tmp_path: Path) -> None:
    """As a release wrote them that had no such column, and called damage and lack of access by one word."""
    break_some(digit_folder)
    (digit_folder / "out of reach.png").symlink_to(f"/proc/{os.getpid()}/mem")
    codes = classify(digit_folder, tmp_path / "out").reasons
    for path in (tmp_path / "out").glob("*.parquet"):
        table = pq.read_table(path)
        texts = pc.replace_substring_regex(table["reason"], "^(damaged|unreachable)", "unreadable")
        place = table.schema.get_field_index("reason")
        table = table.set_column(place, "reason", texts).drop_columns(["reason_code"])
        pq.write_table(table, path)
    scores = classify(digit_folder, tmp_path / "out")
    assert (scores.files, scores.failed, scores.reused) == (206, 6, 205)
    assert scores.reasons == codes


def test_another_version_takes_the_place_of_the_old_one_when_it_is_complete(digit_folder: Path, tmp_path: Path) -> None:
    output, four = tmp_path / "out", ModelVersion("model", "4", "run")
    classify(digit_folder, output)
    old = rows_of(output)
    with pytest.raises(FileNotFoundError):
        classify(digit_folder, output, stop_after=2, model=four)
    pd.testing.assert_frame_equal(rows_of(output), old)
    assert (output / "_manifest.json").exists()
    scores = classify(digit_folder, output, model=four)
    assert scores.reused == 128
    assert set(rows_of(output)["model_version"]) == {"4"}
    assert len(rows_of(output)) == 200
    assert json.loads((output / "_manifest.json").read_text())["model_version"] == "4"
    assert all(path.exists() for path in scores.parts)
    left = {path.name for path in output.iterdir() if path.suffix != ".parquet"}
    assert left == {"_batch.json", "_manifest.json"}


_ONE, _OTHER = ModelVersion("model", "3", "run", "one"), ModelVersion("model", "3", "run", "other")
_OLD, _FOUR = ModelVersion("model", "3", "run"), ModelVersion("model", "4", "run", "other")


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (_ONE, _OTHER, "its rows are by another model version 3"),
        (_OLD, _ONE, "its rows do not say by which files of model version 3"),
        (_ONE, _FOUR, "it has rows by another version, code or options"),
    ],
)
def test_rows_of_other_files_are_scored_again_whatever_their_number(
    digit_folder: Path,
    tmp_path: Path,
    before: ModelVersion,
    after: ModelVersion,
    why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Numbers begin at 1 again once somebody deletes the model, or where another server is asked."""
    output = tmp_path / "out"
    classify(digit_folder, output, model=before)
    if not before.files:  # as an earlier release wrote it
        job = json.loads((output / "_batch.json").read_text())
        del job["model"]["files"]
        (output / "_batch.json").write_text(json.dumps(job))
    with caplog.at_level("INFO", logger="grayline"):
        scores = classify(digit_folder, output, model=after)
    assert scores.reused < 200
    assert why in caplog.text
    assert json.loads((output / "_manifest.json").read_text())["model_files"] == after.files
    assert classify(digit_folder, output, model=after).reused == 200
    with pytest.raises(UserError, match="was scored by model version"):
        classify(digit_folder, output, model=before, only_failed=True)


@pytest.mark.parametrize("moved", [0, 1, 3])
def test_a_replacement_that_was_killed_in_the_middle_is_completed(
    digit_folder: Path, tmp_path: Path, moved: int
) -> None:
    output, four = tmp_path / "out", ModelVersion("model", "4", "run")
    classify(digit_folder, output)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(batch_folder, "move", killed_after(moved))
        with pytest.raises(KeyboardInterrupt):
            classify(digit_folder, output, model=four)
    scores = classify(digit_folder, output, model=four)
    assert scores.reused == 200
    assert set(rows_of(output)["model_version"]) == {"4"}
    assert len(rows_of(output)) == 200


def killed_after(count: int) -> Callable[[UPath, UPath], None]:
    left = iter(range(count))
    real = batch_folder.move

    def move(old: UPath, new: UPath) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        real(old, new)

    return move


def test_what_a_forgotten_worker_brings_is_not_taken(digit_folder: Path, tmp_path: Path) -> None:
    old = plan(digit_folder, tmp_path / "out")
    how = score.Scoring(MODEL, CHOICE, "", "cpu", Limits(), old.run)
    new = plan(digit_folder, tmp_path / "out")
    with pytest.raises(SupersededError, match="another run has taken it over"):
        score.score_part.fn(old.waiting[0], how)
    with pytest.raises(SupersededError):
        finish_batch.finish_batch.fn(old, 1.0)
    assert not times(tmp_path / "out")
    assert score.score_part.fn(new.waiting[0], replace(how, run=new.run)).images == 64


def stalled(uri: str, code: str) -> Callable[..., Iterator[pa.Table]]:
    """Read images as ever, but of one file say that the moment was a bad one."""

    def read(files: pa.Table, *how: Any) -> Iterator[pa.Table]:
        done = 0
        for table in read_images(files, *how):
            rows = table.to_pylist()
            for row, name in zip(rows, files["uri"].slice(done, len(table)).to_pylist(), strict=True):
                if name == uri:
                    row.update(reason_code=code, reason=code)
            done += len(rows)
            yield pa.Table.from_pylist(rows, table.schema)

    return read


@pytest.mark.parametrize(
    ("code", "again"), [("over_time", 3), ("decoder_crashed", 3), ("unreachable", 5), ("damaged", 1)]
)
def test_a_fault_of_the_moment_is_looked_at_again_and_counted(
    digit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, again: int
) -> None:
    uri = str(next(digit_folder.glob("1/*.png")))
    counts = []
    for _ in range(5):
        monkeypatch.setattr(score, "read_images", stalled(uri, code))
        scores = classify(digit_folder, tmp_path / "out")
        assert scores.reasons == {code: 1}
        row = rows_of(tmp_path / "out").set_index("uri").loc[uri]
        counts.append((scores.files - scores.reused, None if pd.isna(row.tries) else int(row.tries)))
    tries = [min(run, 3) for run in range(1, 6)] if code != "damaged" else [None] * 5
    assert [read for read, _ in counts] == [200, *[1] * (again - 1), *[0] * (5 - again)]
    assert [count for _, count in counts] == tries
    monkeypatch.setattr(score, "read_images", read_images)
    scores = classify(digit_folder, tmp_path / "out")
    assert scores.failed == (code != "unreachable")


def test_a_stall_is_no_verdict_on_an_image(digit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(next(digit_folder.glob("1/*.png")))
    monkeypatch.setattr(score, "read_images", stalled(uri, "over_time"))
    assert classify(digit_folder, tmp_path / "out").failed == 1
    (old,) = (path for path in (tmp_path / "out").glob("*.parquet") if uri in pq.read_table(path)["uri"].to_pylist())
    pq.write_table(pq.read_table(old).drop_columns(["tries"]), old)  # as an earlier release wrote it
    monkeypatch.setattr(score, "read_images", read_images)
    assert classify(digit_folder, tmp_path / "out").failed == 0
    assert rows_of(tmp_path / "out").tries.isna().all()
