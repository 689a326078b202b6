"""The comparison of two states of the code finds a single other weight, score or word."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from tests import same
from tests.old_version import unpack


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_with_picture(tmp_path_factory.mktemp("a"))


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The same outputs in another place."""
    return unpack_with_picture(tmp_path / "b")


def unpack_with_picture(to: Path) -> Path:
    """The archive has no pictures."""
    unpack(to)
    (run,) = to.glob("store/runs/*/*")
    shutil.copy(to / "digits" / "0" / "0000.png", run / "explanation" / "images")
    return to


def change_picture(out: Path) -> None:
    (path,) = out.glob("store/runs/*/*/explanation/images/*.png")
    shutil.copy(out / "digits" / "0" / "0010.png", path)


def differing(a: Path, b: Path) -> set[str]:
    return {result.what for result in same.compare(a, b, ["digits"]) if result.differences}


def change_weight(out: Path) -> None:
    (path,) = out.glob("store/runs/*/*/model/model.safetensors")
    tensors = load_file(path)
    tensors["fc.bias"][0] += 1e-7
    save_file(tensors, path)


def change_rows(pattern: str, **values: object) -> Callable[[Path], None]:
    """Return a function that changes values of the first row of the first file."""

    def change(out: Path) -> None:
        path = sorted(out.glob(pattern))[0]
        table = pq.read_table(path)
        rows = table.to_pylist()
        rows[0] |= values
        pq.write_table(pa.Table.from_pylist(rows, table.schema), path)

    return change


def remove_row(out: Path) -> None:
    path = sorted(out.glob("digits-scores/*.parquet"))[0]
    pq.write_table(pq.read_table(path).slice(1), path)


def change_manifest(out: Path) -> None:
    path = out / "digits-scores" / "_manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"failed": 3}))


def change_metric(out: Path) -> None:
    with sqlite3.connect(out / "store" / "mlflow.db") as database:
        database.execute("UPDATE latest_metrics SET value = value + 1e-9 WHERE key = 'test_accuracy'")


def change_alias(out: Path) -> None:
    with sqlite3.connect(out / "store" / "mlflow.db") as database:
        database.execute("UPDATE registered_model_aliases SET version = 1 WHERE alias = 'champion'")


def test_equal_outputs_in_two_places_are_equal(outputs: Path, other: Path) -> None:
    results = same.compare(outputs, other, ["digits"])
    assert [(result.what, result.differences) for result in results if result.differences] == []
    assert all(result.values for result in results)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("weights", change_weight),
        ("scores", change_rows("digits-scores/*.parquet", confidence=0.123)),
        ("scores", change_rows("digits-scores/*.parquet", label="11")),
        ("scores", remove_row),
        ("catalog", change_rows("store/catalog/*/*.parquet", split="validation")),
        ("batch", change_manifest),
        ("pictures", change_picture),
        ("registry", change_metric),
        ("registry", change_alias),
    ],
)  # fmt: skip
def test_one_change_is_found(outputs: Path, other: Path, what: str, change: Callable[[Path], None]) -> None:
    change(other)
    assert differing(outputs, other) == {f"digits {what}"}


def test_reworded_text_and_new_columns_are_noted() -> None:
    before = {"a.png": {"reason": "damaged: 3 of 9 bytes", "label": "1"}}
    reworded = {"a.png": {"reason": "3 of 9 bytes are damaged", "label": "1", "reason_code": "damaged"}}
    result = same.compare_rows("catalog", before, reworded)
    assert not result.differences
    assert result.notes == {"reworded: reason": 1, "new: reason_code": 1}
    assert same.compare_rows("catalog", before, {"a.png": before["a.png"] | {"reason": "damaged: 4"}}).differences
    assert same.compare_rows("catalog", before, {"a.png": {"label": "1"}}).differences


def test_the_command_exits_with_1_on_a_difference(
    outputs: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert same.main([str(outputs), str(other), "--only", "digits"]) == 0
    change_weight(other)
    assert same.main([str(outputs), str(other), "--only", "digits"]) == 1
    assert "model.safetensors fc.bias: bytes" in capsys.readouterr().out
