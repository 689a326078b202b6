"""Parquet with image bytes: each row is an image, as Hugging Face's `datasets` and others write them."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from resnet_core.errors import UserError
from resnet_core.sources import _image_tables
from resnet_core.sources.fetch import open_files, prepare
from resnet_core.sources.listing import NO_LABELS
from resnet_core.sources.locate import read_bytes
from resnet_core.sources.source import check_source, list_source, source_kind
from resnet_core.storage import compressed
from tests.listings import contents, ignored, listed, rows

Digits = tuple[np.ndarray, list[str]]
CLASSES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def encoded(digits: Digits, count: int, start: int = 0) -> list[bytes]:
    found = []
    for pixels in digits[0][start : start + count]:
        Image.fromarray(pixels).save(file := io.BytesIO(), "png")
        found.append(file.getvalue())
    return found


def write_hugging_face(path: Path, images: list[bytes], labels: list[int], group: int = 10) -> Path:
    """A file as `datasets.Dataset.to_parquet` writes it."""
    features = {"image": {"_type": "Image"}, "label": {"names": CLASSES, "_type": "ClassLabel"}}
    cells = [{"bytes": data, "path": f"{number}.png"} for number, data in enumerate(images)]
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        {"huggingface": json.dumps({"info": {"features": features}})},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": cells, "label": labels}, schema), path, row_group_size=group, compression="none")
    return path


@pytest.fixture(autouse=True)
def _no_leftovers() -> Iterator[None]:
    yield
    compressed._remove_made()


def test_hugging_faces_files_have_their_bytes_and_class_names(tmp_path: Path, digits: Digits) -> None:
    images, labels = encoded(digits, 35), [int(label) for label in digits[1][:35]]
    path = write_hugging_face(tmp_path / "digits.parquet", images, [-1, *labels[1:]])
    assert source_kind(str(path)) == "parquet"
    assert contents(path) == {f"digits.parquet#row={number}": data for number, data in enumerate(images)}
    assert [row["label"] for row in rows(path)] == [None, *(CLASSES[label] for label in labels[1:])]
    assert read_bytes(f"{path}#row=17") == images[17]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_a_column_of_bytes_under_any_name_will_do(tmp_path: Path, digits: Digits, kind: pa.DataType) -> None:
    images = encoded(digits, 5)
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"scan": pa.array(images, kind), "label": ["a", None, "007", "b", "a"]}), path)
    assert list(contents(path).values()) == images
    assert [row["label"] for row in rows(path)] == ["a", None, "007", "b", "a"]
    pq.write_table(pa.table({"scan": images, "image": images[::-1]}), path)
    assert list(contents(path).values()) == images[::-1]
    assert {row["label"] for row in rows(path)} == {None}


def test_labels_of_any_type_are_text(tmp_path: Path, digits: Digits) -> None:
    image = encoded(digits, 1) * 3
    for values, expected in (
        ([1, None, 3], ["1", None, "3"]),
        ([1.0, float("nan"), 0.5], ["1.0", None, "0.5"]),
        ([True, False, None], ["true", "false", None]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
    ):
        pq.write_table(pa.table({"image": image, "label": values}), tmp_path / "x.parquet")
        assert [row["label"] for row in rows(tmp_path / "x.parquet")] == expected


def test_a_folder_of_such_files_is_one_source(tmp_path: Path, digits: Digits) -> None:
    for number, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")):
        write_hugging_face(tmp_path / "data" / f"{name}.parquet", encoded(digits, 4, 4 * number), [0, 1, 2, 3])
    (tmp_path / "README.md").write_text("about")
    assert source_kind(str(tmp_path)) == "parquet"
    assert len(contents(tmp_path)) == 12
    assert len(rows(tmp_path)) == 13
    assert ignored(tmp_path) == ["README.md"]
    (tmp_path / "picture.png").write_bytes(b"x")
    assert source_kind(str(tmp_path)) == "folder"


def test_rows_without_bytes_cost_one_image_each(tmp_path: Path, digits: Digits) -> None:
    images = encoded(digits, 2)
    cells = [{"bytes": images[0]}, None, {"bytes": None}, {"bytes": images[1]}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(cells, kind)}), tmp_path / "x.parquet")
    assert list(contents(tmp_path / "x.parquet").values()) == [images[0], "holds no bytes", "holds no bytes", images[1]]


def test_rows_in_any_order_come_in_that_order(tmp_path: Path, digits: Digits) -> None:
    images = encoded(digits, 50)
    table = listed(write_hugging_face(tmp_path / "x.parquet", images, [0] * 50, group=7))
    order = np.random.default_rng(0).permutation(50)
    assert list(open_files(table.take(order))) == [images[int(table["offset"][int(k)].as_py())] for k in order]


def test_a_large_row_group_is_cut_up_once(tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_image_tables, "LARGE_GROUP", 100)
    monkeypatch.setattr(_image_tables, "LARGE_GROUP_BYTES", 1000)
    images = encoded(digits, 300)
    path = write_hugging_face(tmp_path / "x.parquet", images, [0] * 300, group=300)
    files = listed(path)
    prepare(files)
    made = _image_tables.regrouped(str(path))
    assert made != str(path)
    assert pq.ParquetFile(made).metadata.num_row_groups == 10
    before = Path(made).stat().st_ino
    assert list(open_files(files)) == images
    assert Path(_image_tables.regrouped(str(path))).stat().st_ino == before


def test_a_damaged_row_group_costs_its_own_images(tmp_path: Path, digits: Digits) -> None:
    images = encoded(digits, 30)
    path = write_hugging_face(tmp_path / "x.parquet", images, [0] * 30)
    files = listed(path)
    data = bytearray(path.read_bytes())
    place = data.index(images[12])
    data[place - 300 : place - 200] = bytes(100)
    path.write_bytes(data)
    found = list(open_files(files))
    assert found[:10] == images[:10]
    assert found[20:] == images[20:]


def test_what_cannot_be_meant_is_the_users_error(tmp_path: Path, digits: Digits) -> None:
    images = encoded(digits, 2)
    pq.write_table(pa.table({"one": images, "two": images}), tmp_path / "two.parquet")
    (tmp_path / "none").mkdir()
    pq.write_table(pa.table({"width": [1, 2]}), tmp_path / "none" / "x.parquet")
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "empty.parquet")
    pq.write_table(pa.table({"images": pa.array([[{"bytes": images[0]}]]), "label": [1]}), tmp_path / "lists.parquet")
    for source, message in (
        ("two.parquet", "one, two hold bytes; name the column of the images `image`"),
        ("none", "no column holds the bytes of images. Its columns: width"),
        ("lists.parquet", "the column 'images' holds lists of images. Write one image a row"),
        ("empty.parquet", "holds no images"),
    ):
        with pytest.raises(UserError, match=message):
            check_source(str(tmp_path / source))
    whole = (tmp_path / "two.parquet").read_bytes()
    (tmp_path / "two.parquet").write_bytes(whole[:-20])
    with pytest.raises(UserError, match="not a whole Parquet file"):
        list(list_source(str(tmp_path / "two.parquet")))


def test_a_table_of_paths_is_a_manifest(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a.png"], "label": ["a"]}), tmp_path / "m.parquet")
    assert source_kind(str(tmp_path / "m.parquet")) == "manifest"
    check_source(str(tmp_path / "m.parquet"))


def listed_labels(path: Path, label_column: str | None = None) -> list[str | None]:
    return [label for batch in list_source(str(path), (), label_column) for label in batch["label"].to_pylist()]


def write_columns(path: Path, columns: dict[str, object], names: dict[str, list[str]] | None = None) -> Path:
    """A table of two images; names: of columns that `datasets` calls ClassLabel."""
    table = pa.table({"image": [b"x", b"y"], **columns})
    features = {name: {"names": classes, "_type": "ClassLabel"} for name, classes in (names or {}).items()}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path)
    return path


@pytest.mark.parametrize("name", ["labels", "fine_label", "coarse_label", "target", "class", "Label", "Target"])
def test_the_only_column_that_may_be_the_class_is(tmp_path: Path, name: str) -> None:
    path = write_columns(tmp_path / "x.parquet", {name: [1, 0], "width": [3, 4]}, {name: ["cat", "dog"]})
    assert listed_labels(path) == ["dog", "cat"]


def test_of_several_columns_the_user_names_one(tmp_path: Path) -> None:
    columns = {"fine_label": [1, 0], "coarse_label": [0, None], "odd": ["a", None]}
    names = {"fine_label": ["cat", "dog"], "coarse_label": ["animal"]}
    path = write_columns(tmp_path / "x.parquet", columns, names)
    with pytest.raises(UserError, match=r"fine_label, coarse_label may be the class. Name the column, like"):
        listed_labels(path)
    check_source(str(path))  # without labels it may be scored
    assert listed_labels(path, NO_LABELS) == [None, None]
    assert listed_labels(path, "coarse_label") == ["animal", None]
    assert listed_labels(path, "odd") == ["a", None]
    with pytest.raises(UserError, match=r"has no column 'fine', as `label_column` says. Did you mean 'fine_label'"):
        listed_labels(path, "fine")
    path = write_columns(tmp_path / "x.parquet", {**columns, "label": ["x", "y"]}, names)
    assert listed_labels(path) == ["x", "y"]


@pytest.mark.parametrize("labels", [[[1], [1, 2]], [{"a": 1}, {"a": 2}], [b"1", b"2"]])
def test_several_classes_of_an_image_are_refused(tmp_path: Path, labels: list[object]) -> None:
    path = write_columns(tmp_path / "x.parquet", {"label": labels})
    with pytest.raises(UserError, match=r"the column 'label' holds .* and an image has one class"):
        listed_labels(path)


def write_linked(path: Path, cells: list[object], labels: list[int]) -> Path:
    table = pa.table({"image": pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))})
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": CLASSES}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.append_column("label", pa.array(labels)).replace_schema_metadata(metadata), path)
    return path


def test_rows_without_bytes_are_the_files_that_they_name(tmp_path: Path, digits: Digits) -> None:
    images = encoded(digits, 3)
    (tmp_path / "files").mkdir()
    for number, data in enumerate(images):
        (tmp_path / "files" / f"{number}.png").write_bytes(data)
    names = ["files/0.png", f"{tmp_path}/files/1.png", "files\\2.png", "files/3.png"]
    path = write_linked(tmp_path / "x.parquet", [{"bytes": None, "path": name} for name in names], [0, 1, 2, -1])
    assert source_kind(str(path)) == "parquet"
    found = sorted(rows(path), key=lambda row: row["uri"])
    assert [row["uri"] for row in found] == [f"{tmp_path}/files/{number}.png" for number in range(4)]
    assert [row["label"] for row in found] == ["zero", "one", "two", None]
    assert [row["size"] for row in found] == [*(len(data) for data in images), -1]
    found = contents(path)
    assert [found[f"x.parquet#row={row}"] for row in range(3)] == images
    assert "No such file" in str(found["x.parquet#row=3"])


def test_a_row_has_bytes_or_a_path(tmp_path: Path, digits: Digits) -> None:
    images = encoded(digits, 3)
    (tmp_path / "1.png").write_bytes(images[1])
    cells = [{"bytes": images[0], "path": "0.png"}, {"bytes": None, "path": "1.png"}, {"bytes": images[2]}, None]
    path = write_linked(tmp_path / "x.parquet", cells, [0, 1, 2, 3])
    assert contents(path) == {
        "x.parquet#row=0": images[0], "x.parquet#row=1": images[1], "x.parquet#row=2": images[2],
        "x.parquet#row=3": "holds no bytes",
    }  # fmt: skip
    assert {row["uri"]: row["label"] for row in rows(path)}[f"{tmp_path}/1.png"] == "one"


@pytest.mark.parametrize("name", ["image", "file_name"])
def test_a_column_of_paths_is_relative_to_the_table(tmp_path: Path, name: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(b"one")
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({name: ["data/a.png"], "labels": ["cat"]}), path)
    assert source_kind(str(path)) == "parquet"
    (row,) = rows(path)
    assert (row["uri"], row["label"], row["size"]) == (f"{tmp_path}/data/a.png", "cat", 3)


def test_files_beside_the_tables_are_left_out_and_named(
    tmp_path: Path, digits: Digits, caplog: pytest.LogCaptureFixture
) -> None:
    write_hugging_face(tmp_path / "data" / "train-00000-of-00001.parquet", encoded(digits, 4), [0, 1, 2, 3])
    for name in ("x.py", "state.arrow", "dataset.lock", "dataset_infos.json", "old.zip", "notes.docx"):
        (tmp_path / name).write_bytes(b"x")
    assert source_kind(str(tmp_path)) == "parquet"
    assert len(contents(tmp_path)) == 4
    assert len(ignored(tmp_path)) == 6
    assert f"{tmp_path}: files beside the tables are left out: dataset.lock, notes.docx, old.zip, state.arrow" in (
        caplog.messages
    )
    (tmp_path / "preview.JPG").write_bytes(b"x")
    assert source_kind(str(tmp_path)) == "folder"
    list(list_source(str(tmp_path)))
    (line,) = [text for text in caplog.messages if "not opened" in text]
    assert "not opened: data/train-00000-of-00001.parquet, old.zip. Give each as a source of its own" in line
