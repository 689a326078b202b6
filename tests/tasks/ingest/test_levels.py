"""Gray levels of a data set: decided once over all images, kept, and the same in training and scoring."""

import io
import json
import logging
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.images.levels import Decided
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.reading.pool import iterate_files, read_file
from resnet_core.sources.source import list_source
from tasks.ingest.levels import with_decision
from tasks.ingest.pixels import read_part
from tasks.ingest.scan import scan
from tasks.store import MANIFEST
from tests.places import a_workspace
from tests.tasks.ingest.test_ingest import LIMITS, dataset_of, ingested, sharded

Digits = tuple[np.ndarray, list[str]]


def files_of(folder: Path, digits: Digits, white: float, kind: str, suffix: str = "tif", first: int = 0) -> Path:
    """20 digits of two classes with levels from 0 to `white`, one folder a class."""
    wanted = [k for k, label in enumerate(digits[1]) if label in "37"][first : first + 20]
    for number in wanted:
        levels = np.rint(digits[0][number] / 255 * white) if kind != "f4" else digits[0][number] / 255 * white
        put(folder / digits[1][number] / f"{number:04}.{suffix}", levels.astype(kind))
    return folder


def put(path: Path, levels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sink = io.BytesIO()
    Image.fromarray(levels).save(sink, {"tif": "TIFF", "png": "PNG", "pgm": "PPM"}[path.suffix[1:]])
    path.write_bytes(sink.getvalue())


def pixels_of(store: UPath, dataset: object) -> dict[str, np.ndarray]:
    """The pixels in the shards by the name of their file."""
    found = sharded(dataset, store)  # type: ignore[arg-type]
    names = table(store).set_index("image_id")["uri"].map(lambda uri: Path(uri).name)
    rows = [row for file in found.files for row in pq.read_table(file.path).to_pylist()]
    return {names[row["image_id"]]: np.array(row["pixels"], np.uint8).reshape(8, 8) for row in rows}


KINDS = ["png8", "png16", "pgm", "tif_u1", "tif_u2", "tif_i2", "tif_u4", "tif_f4", "tif_f8", "sbit", "dcm"]


@st.composite
def data_sets(draw: st.DrawFn) -> dict[str, bytes]:
    """Files of one or two kinds and depths, by name."""
    files = {}
    for kind in draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=2, unique=True)):
        white = draw(st.sampled_from([1, 200, 255, 1023, 4071, 4095, 65535]))
        for number in range(4):
            levels = draw(arrays(np.uint16, (8, 8), elements=st.integers(0, 1000))) / 1000 * white
            files[f"{kind}-{number}.{SUFFIXES.get(kind, 'tif')}"] = encoded(levels, kind)
    return files


SUFFIXES = {"png8": "png", "png16": "png", "pgm": "pgm", "sbit": "png", "dcm": "dcm"}


def encoded(levels: np.ndarray, kind: str) -> bytes:
    """float64 [8, 8] as a file of one kind."""
    if kind.startswith("tif"):
        dtype = np.dtype(kind[-2:])
        shifted = levels - levels.mean() if dtype.kind in "if" else levels
        return tiff((np.rint(shifted) if dtype.kind != "f" else shifted).clip(-32768, 65535).astype(dtype))
    whole = np.rint(levels).astype(np.uint16)
    if kind == "png8":
        return saved(np.minimum(whole, 255).astype(np.uint8), "PNG")
    if kind == "pgm":
        return b"P5 8 8 %d\n" % max(256, whole.max()) + whole.astype(">u2").tobytes()
    if kind == "dcm":
        return dicom(whole, PixelPaddingValue=0)
    png = saved(whole, "PNG")
    return png if kind == "png16" else with_significant(png, 12)


def saved(levels: np.ndarray, kind: str) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(levels).save(sink, kind)
    return sink.getvalue()


def tiff(levels: np.ndarray, **words: object) -> bytes:
    sink = io.BytesIO()
    tifffile.imwrite(sink, levels, **words)
    return sink.getvalue()


def with_significant(png: bytes, bits: int) -> bytes:
    """A gray PNG with sBIT."""
    chunk = b"sBIT" + bytes([bits])
    return png[:33] + struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


def dicom(stored: np.ndarray, **tags: object) -> bytes:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = stored.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    sink = io.BytesIO()
    dataset.save_as(sink, enforce_file_format=True)
    return sink.getvalue()


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(data_sets(), st.sampled_from([None, 12, [0, 3000], "data", {"percentiles": [1, 99]}]), st.booleans())
def test_training_and_scoring_cannot_differ(files: dict[str, bytes], levels_by: object, clip: bool) -> None:
    """Shards hold what a batch scores: the version's settings, as JSON, in a reader process."""
    with tempfile.TemporaryDirectory() as folder:
        source, store = Path(folder) / "images", UPath(folder) / "s"
        for number in range(8):  # so that two classes are left
            levels = np.arange(64, dtype=np.uint8).reshape(8, 8) + np.uint8(9 * number)
            put(source / "ab"[number % 2] / f"good{number}.png", levels)
        for number, (name, data) in enumerate(files.items()):
            (source / "ab"[number % 2] / name).write_bytes(data)
        image = {"size": 8, "levels": levels_by, "beyond": "clip" if clip else "fail"}
        dataset = dataset_of(source, image=image, quarantine_limit=1.0, split={"near_duplicates": False})
        try:
            shard_set = sharded(dataset, store)
        except UserError:  # no image is held out by chance, or too few are left
            return
        trained = Preprocessing.of(json.loads((shard_set.folder / MANIFEST).read_text())["preprocessing"])
        rows = [row for file in shard_set.files for row in pq.read_table(file.path).to_pylist()]
        made = {row["image_id"]: bytes(row["pixels"]) for row in rows}
        listed = pa.Table.from_batches(list_source(str(source)))
        scored = pa.concat_tables(iterate_files(listed, trained))
        catalog = table(store).set_index("uri")
        for uri, row in zip(listed["uri"].to_pylist(), scored.to_pylist(), strict=True):
            known = catalog.loc[uri]
            if known["status"] == "ok":
                assert row["reason_code"] is None, (uri, row["reason"])
                assert row["pixels"] == made[row["image_id"]], uri
            elif row["reason_code"] is not None:
                assert row["reason_code"] == known["reason_code"], uri


def table(store: UPath) -> pd.DataFrame:
    return pd.read_parquet((store / "catalog" / "d").path)


@pytest.mark.parametrize(
    ("white", "kind", "suffix", "wanted"),
    [
        (255, "u1", "png", Decided()),
        (4095, "u2", "png", Decided(integers=(0, 4095))),
        (1023, "u2", "tif", Decided(integers=(0, 1023))),
        (65535, "u2", "tif", Decided(integers=(0, 65535))),
        (1, "f4", "tif", Decided(floats=(0, 1))),
        (255, "f4", "tif", Decided(floats=(0, 255))),
    ],
)
def test_the_levels_of_the_images_are_those_of_the_shards_and_of_a_batch(
    digits: Digits, tmp_path: Path, white: float, kind: str, suffix: str, wanted: Decided
) -> None:
    folder = files_of(tmp_path / "images", digits, white, kind, suffix)
    store, dataset = UPath(tmp_path / "s"), dataset_of(tmp_path / "images")
    made = pixels_of(store, dataset)
    image = with_decision(dataset.image, store / "catalog" / "d" / "catalog.parquet")
    assert image.decided == wanted
    assert len(made) == 20
    for name, pixels in made.items():
        assert np.array_equal(pixels, digits[0][int(name[:4])]), name
        (file,) = folder.glob(f"*/{name}")
        assert np.array_equal(read_file(str(file), image).pixels, pixels)


def test_the_decision_is_printed_and_kept(digits: Digits, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "grayline")
    files_of(tmp_path / "images", digits, 4000, "u2")
    store, dataset = UPath(tmp_path / "s"), dataset_of(tmp_path / "images", quarantine_limit=1.0)
    first = pixels_of(store, dataset)
    said = "gray levels of images without a stated white (20, from 0 to 4,000): deeper images 12 bits, 0 to 4,095"
    assert said in caplog.text
    put(tmp_path / "images" / "3" / "bright.tif", np.arange(64, dtype=np.uint16).reshape(8, 8) * 100)
    put(tmp_path / "images" / "3" / "dark.tif", np.arange(64, dtype=np.uint16).reshape(8, 8))
    caplog.clear()
    second = pixels_of(store, dataset)
    assert "gray levels" not in caplog.text
    assert {name: second[name].tolist() for name in first} == {name: first[name].tolist() for name in first}
    assert second["dark.tif"].max() == 4
    row = table(store).set_index("uri").loc[str(tmp_path / "images" / "3" / "bright.tif")]
    assert (row["status"], row["reason_code"]) == ("quarantined", "beyond_levels")
    assert "6,300 is beyond the data set's range, 0 to 4,095" in row["reason"]
    clipped = pixels_of(store, dataset_of(tmp_path / "images", image={"size": 8, "beyond": "clip"}))
    assert clipped["bright.tif"].max() == 255
    deeper = pixels_of(store, dataset_of(tmp_path / "images", image={"size": 8, "levels": 14}))
    assert deeper["bright.tif"].max() == 98  # 6,300 of 16,383


def test_later_images_of_another_kind_are_decided_when_they_come(digits: Digits, tmp_path: Path) -> None:
    folder = files_of(tmp_path / "images", digits, 255, "u1", "png")
    store, dataset = UPath(tmp_path / "s"), dataset_of(tmp_path / "images")
    first = pixels_of(store, dataset)
    (before,) = (store / "pixels" / "d").iterdir()
    files_of(folder, digits, 4000, "u2", "tif", first=20)
    second = pixels_of(store, dataset)
    assert len(second) == 40
    assert all(np.array_equal(second[name], first[name]) for name in first)
    after = next(path for path in (store / "pixels" / "d").iterdir() if path != before)
    same = [Path(path.path).samefile((after / path.name).path) for path in before.iterdir()]
    assert sorted(same) == [False, True]  # 8-bit images were not read again
    assert len(pixels_of(store, dataset)) == 40
    assert ingested(dataset, store)[0].read == 0


def test_an_eight_bit_data_set_is_read_once(digits: Digits, tmp_path: Path) -> None:
    files_of(tmp_path / "images", digits, 255, "u1", "png")
    store = UPath(tmp_path / "s")
    ingested(dataset_of(tmp_path / "images"), store)
    assert len(list((store / "pixels" / "d").iterdir())) == 1


def test_a_night_that_was_killed_before_the_decision_goes_on(digits: Digits, tmp_path: Path) -> None:
    files_of(tmp_path / "images", digits, 4000, "u2")
    store, dataset = UPath(tmp_path / "s"), dataset_of(tmp_path / "images")
    found = scan.fn(dataset, a_workspace(store))
    for part in found.unread:
        read_part.fn(part, found.image, LIMITS)
    assert len(pixels_of(store, dataset)) == 20


def test_a_few_deep_images_that_make_the_others_dark_are_named(
    digits: Digits, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files_of(tmp_path / "images", digits, 4000, "u2")
    put(tmp_path / "images" / "3" / "deep.tif", np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)
    with caplog.at_level(logging.WARNING, "grayline"):
        made = pixels_of(UPath(tmp_path / "s"), dataset_of(tmp_path / "images"))
    assert "20 of them need only 12 bits and are dark beside 1 deeper" in caplog.text
    assert made["deep.tif"].max() == 245  # 63,000 of 65,535


@pytest.mark.parametrize("levels", [{"percentiles": [0, 100]}, "data", [60, 120]])
def test_a_range_by_choice_holds_for_eight_bits_too(digits: Digits, tmp_path: Path, levels: object) -> None:
    wanted = [k for k, label in enumerate(digits[1]) if label in "37"][:20]
    for number in wanted:
        faded = np.rint(60 + digits[0][number] / 255 * 60).astype(np.uint8)
        put(tmp_path / "images" / digits[1][number] / f"{number:04}.png", faded)
    made = pixels_of(UPath(tmp_path / "s"), dataset_of(tmp_path / "images", image={"size": 8, "levels": levels}))
    assert len(made) == 20
    for name, pixels in made.items():
        assert np.abs(pixels.astype(int) - digits[0][int(name[:4])]).max() <= 3


def test_a_single_deep_image_beside_eight_bits_and_blanks(digits: Digits, tmp_path: Path) -> None:
    files_of(tmp_path / "images", digits, 255, "u1", "png")
    put(tmp_path / "images" / "3" / "deep.tif", np.arange(64, dtype=np.uint16).reshape(8, 8) * 16)
    put(tmp_path / "images" / "3" / "blank.tif", np.full((8, 8), 60000, np.uint16))
    store = UPath(tmp_path / "s")
    made = pixels_of(store, dataset_of(tmp_path / "images"))
    assert made["deep.tif"].max() == 251  # 1,008 of 1,023
    rows = table(store)
    assert rows.set_index("uri").loc[str(tmp_path / "images" / "3" / "blank.tif"), "reason_code"] == "blank"
