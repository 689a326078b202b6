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
    assert [row["split"] for row in rows(tmp_path)] == ["test"] * 4 + [None] * 8 + [None]
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
    for source, message in (
        ("two.parquet", "one, two hold bytes; name the column of the images `image`"),
        ("none", "no column holds the bytes of images. Its columns: width"),
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
