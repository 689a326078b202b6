"""IDX: MNIST's files are a source of PGM images with labels, compressed or not."""

import gzip
import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_core.errors import UserError
from resnet_core.sources.fetch import open_files
from resnet_core.sources.locate import read_bytes
from resnet_core.sources.source import check_source, list_source, source_kind
from resnet_core.storage import compressed
from tests.listings import contents, ignored, listed, rows

Digits = tuple[np.ndarray, list[str]]


def write_pair(folder: Path, stem: str, digits: Digits, count: int, packed: bool = False, dot: str = "-") -> Path:
    """The digits as MNIST's two files. Returns the images'."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = digits[0][:count], bytes(int(label) for label in digits[1][:count])
    suffix = ".gz" if packed else ""
    pack = gzip.compress if packed else bytes
    path = folder / f"{stem}images{dot}idx3-ubyte{suffix}"
    path.write_bytes(pack(struct.pack(">4L", 0x803, *images.shape) + images.tobytes()))
    (folder / f"{stem}labels{dot}idx1-ubyte{suffix}").write_bytes(pack(struct.pack(">2L", 0x801, count) + labels))
    return path


@pytest.fixture(autouse=True)
def _no_leftovers() -> Iterator[None]:
    yield
    compressed._remove_made()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dot", ["-", "."])
def test_each_image_is_a_file_with_its_label(tmp_path: Path, digits: Digits, packed: bool, dot: str) -> None:
    path = write_pair(tmp_path, "train-", digits, 50, packed, dot)
    assert source_kind(str(path)) == "idx"
    table = listed(path)
    assert table["label"].to_pylist() == digits[1][:50]
    assert set(table["split"].to_pylist()) == {None}
    for pixels, size, data in zip(digits[0], table["size"].to_pylist(), open_files(table), strict=False):
        assert isinstance(data, bytes)
        assert len(data) == size
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    assert np.array_equal(Image.open(io.BytesIO(read_bytes(f"{path}#image=7"))), digits[0][7])


def test_a_folder_of_pairs_is_one_source_and_says_what_is_for_testing(tmp_path: Path, digits: Digits) -> None:
    write_pair(tmp_path, "train-", digits, 20, packed=True)
    write_pair(tmp_path, "t10k-", digits, 5)
    (tmp_path / "readme.txt").write_text("about")
    assert source_kind(str(tmp_path)) == "idx"
    assert len(contents(tmp_path)) == 25
    assert len([row for row in rows(tmp_path) if not row["ignored"]]) == 25
    assert "readme.txt" in ignored(tmp_path)


def test_images_without_labels_are_listed(tmp_path: Path, digits: Digits) -> None:
    path = write_pair(tmp_path, "", digits, 5)
    (tmp_path / "labels-idx1-ubyte").unlink()
    assert [row["label"] for row in rows(path)] == [None] * 5


def test_what_does_not_belong_together_is_the_users_error(tmp_path: Path, digits: Digits) -> None:
    path = write_pair(tmp_path, "train-", digits, 20)
    labels = tmp_path / "train-labels-idx1-ubyte"
    whole = labels.read_bytes()
    for wrong in (struct.pack(">2L", 0x801, 19) + bytes(19), whole[:-1], b""):
        labels.write_bytes(wrong)
        with pytest.raises(UserError, match="not the labels of the 20 images"):
            check_source(str(path))
    labels.write_bytes(whole)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="cut short, 20 images need"):
        list(list_source(str(path)))


def test_a_changed_file_is_known_by_its_time(tmp_path: Path, digits: Digits) -> None:
    def tags() -> set[str]:
        return {row["modified"] for row in rows(write_pair(tmp_path, "train-", digits, 3).parent)}

    assert not tags() & tags()


def test_a_set_that_is_there_twice_is_read_once(tmp_path: Path, digits: Digits) -> None:
    """As torchvision leaves it, and as Kaggle packs it. Another set of the same names is a set of its own."""
    raw = tmp_path / "MNIST" / "raw"
    for packed in (False, True):
        write_pair(raw, "train-", digits, 20, packed)
        write_pair(raw, "t10k-", digits, 5, packed)
    write_pair(raw, "train-", digits, 20, dot=".")
    write_pair(raw / "again", "t10k-", digits, 5)
    other = digits[0][::-1], digits[1][::-1]
    write_pair(tmp_path / "Other" / "raw", "t10k-", other, 5)
    (tmp_path / "MNIST" / "processed").mkdir()
    (tmp_path / "MNIST" / "processed" / "training.pt").write_bytes(b"x")
    assert source_kind(str(tmp_path)) == "idx"
    found = [row for row in rows(tmp_path) if not row["ignored"]]
    assert {row["container"].removeprefix(f"{tmp_path}/") for row in found} == {
        "MNIST/raw/train-images-idx3-ubyte",
        "MNIST/raw/t10k-images-idx3-ubyte",
        "Other/raw/t10k-images-idx3-ubyte",
    }
    assert [row["label"] for row in found if "train" in row["path"]] == digits[1][:20]
    assert len(found) == 30
    assert "MNIST/raw/train-images-idx3-ubyte.gz" in ignored(tmp_path)


@pytest.mark.parametrize(
    ("count", "height", "width", "message"),
    [
        (2**32 - 1, 0, 0, "0 x 0 pixels"),
        (2**32 - 1, 28, 0, "0 x 28 pixels"),
        (2**32 - 1, 28, 28, "4,294,967,295 images need 3,367,254,359,296 bytes"),
        (2, 2, 2, "2 images need 24 bytes"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_a_header_that_promises_more_than_there_is_is_refused(
    tmp_path: Path, count: int, height: int, width: int, message: str, packed: bool
) -> None:
    path = tmp_path / f"train-images-idx3-ubyte{'.gz' if packed else ''}"
    data = struct.pack(">4L", 0x803, count, height, width) + bytes(7)
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(UserError, match=message):
        check_source(str(path))
