"""The catalog over several nights. Look-alikes stay together, decisions stay, and every kind of source gives the same
shards.
"""

import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from upath import UPath

from resnet_core.catalog import history, splits
from resnet_core.catalog.splits import SplitConfig
from resnet_core.errors import UserError
from resnet_core.shards import format as shards
from tasks.store import CATALOG_VERSION, Store
from tasks.values import Catalog
from tests.conftest import write_folder
from tests.resnet_core.sources.test_idx import write_pair
from tests.tasks.ingest.test_ingest import Digits, dataset_of, ingested, sharded, table

SIZE = {"size": 64}


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """60 solar cells of two made-up classes: 300 x 300 pixels, all different."""
    from importlib.resources import files

    folder = Path(str(files("elpv_dataset"))) / "data" / "images"
    for number, path in enumerate(sorted(folder.glob("*.png"))[:60]):
        to = tmp_path / "cells" / "ab"[number % 2] / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    return tmp_path / "cells"


def rows_by_name(catalog: Catalog) -> pd.DataFrame:
    rows = table(catalog)
    return rows.assign(name=[Path(uri).name for uri in rows["uri"]]).set_index("name")


def again(path: Path, name: str, quality: int = 80, to: Path | None = None) -> Path:
    """The same photograph as another file: other bytes, other size."""
    copy = (to or path.parent) / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    Image.open(path).resize((280, 280)).save(copy, "JPEG", quality=quality)
    return copy


def test_a_new_near_duplicate_joins_its_elders_split(cells: Path, tmp_path: Path) -> None:
    store, dataset = UPath(tmp_path / "s"), dataset_of(cells, image=SIZE)
    before = rows_by_name(ingested(dataset, store)[0])
    for path in sorted(cells.rglob("*.png")):
        again(path, f"again-{path.stem}.jpg")
    after = rows_by_name(ingested(dataset, store)[0])
    assert (after.loc[before.index, "split"] == before["split"]).all()
    copies = [name for name in after.index if name.startswith("again-")]
    elders = [name.removeprefix("again-").replace(".jpg", ".png") for name in copies]
    found = after.loc[copies, "near"].notna().to_numpy()
    assert found.mean() > 0.95
    assert (after.loc[copies, "split"].to_numpy() == after.loc[elders, "split"].to_numpy())[found].all()
    # Left to their own bytes, many would have gone to the other side.
    alone = [splits.assign(image, dataset.split) for image in after.loc[copies, "image_id"]]
    assert np.mean(np.array(alone) != after.loc[elders, "split"].to_numpy()) > 0.2


def test_near_duplicates_of_the_same_night_stay_together(cells: Path, tmp_path: Path) -> None:
    for path in sorted(cells.rglob("*.png")):
        again(path, f"again-{path.stem}.jpg")
    rows = rows_by_name(ingested(dataset_of(cells, image=SIZE), UPath(tmp_path / "s"))[0])
    near = rows[rows["near"].notna()]
    split = rows.set_index("image_id")["split"]
    assert len(near) > 50
    assert (near["split"].to_numpy() == split.loc[near["near"]].to_numpy()).all()


def test_a_copy_across_the_users_split_is_counted_and_nothing_is_left_out(cells: Path, tmp_path: Path) -> None:
    learned, held_out = sorted((cells / "a").glob("*.png"))[:2]
    shutil.copy(again(learned, "twin.jpg", to=tmp_path), cells / "a" / "twin.jpg")
    rows = [
        {"path": str(p.relative_to(cells)), "label": p.parent.name, "split": ""} for p in sorted(cells.rglob("*.*g"))
    ]
    for row in rows:
        row["split"] = "train" if row["path"] == f"a/{learned.name}" else "test" if row["path"] == "a/twin.jpg" else ""
    labels = tmp_path / "labels.csv"
    pd.DataFrame(rows).to_csv(labels, index=False)
    dataset, store = dataset_of(cells, image=SIZE, labels=str(labels)), UPath(tmp_path / "s")
    for _ in range(2):
        found = rows_by_name(ingested(dataset, store)[0])
        assert (found["status"] == "ok").all()
        assert found.loc["twin.jpg", ["split", "look_alike"]].tolist() == ["test", found.loc[learned.name, "image_id"]]
        assert found.loc["twin.jpg", "residual"] < 0.0025
        assert found.loc[learned.name, "split"] == "train"
        assert found.loc[[learned.name, held_out.name], "look_alike"].isna().all()


def test_a_catalog_of_earlier_nights_is_measured_and_its_images_come_back(cells: Path, tmp_path: Path) -> None:
    store, dataset = UPath(tmp_path / "s"), dataset_of(cells, image=SIZE)
    for path in sorted(cells.rglob("*.png"))[:20]:
        again(path, f"again-{path.stem}.jpg")
    catalog, _ = ingested(dataset, store)
    found = rows_by_name(catalog)
    pair = found.index[found["split"] == "test"][0], found.index[found["split"] == "train"][0]
    # As that release left them: a copy out, and all that look alike joined in a chain through `near`.
    old = pq.read_table(catalog.path.path).drop_columns(["look_alike", "residual"]).to_pandas()
    rows = old["uri"].str.endswith(pair[1])
    old.loc[rows, ["status", "reason_code", "reason"]] = ["duplicate", "near_duplicate", "near-duplicate of /x.png"]
    old["near"] = found["image_id"].iloc[0]
    schema = pq.read_schema(catalog.path.path)
    notes = {CATALOG_VERSION: (schema.metadata or {})[CATALOG_VERSION.encode()]}
    known = pa.schema([field for field in schema if field.name in old.columns], notes)
    pq.write_table(pa.Table.from_pandas(old, known), catalog.path.path)
    after = rows_by_name(ingested(dataset, store)[0])
    assert after.equals(found.loc[after.index])


def test_the_split_of_an_image_never_changes(digit_folder: Path, tmp_path: Path) -> None:
    store = UPath(tmp_path / "s")
    before = table(ingested(dataset_of(digit_folder), store)[0]).set_index("uri")["split"]
    other = dataset_of(digit_folder, split={"test": 0.6, "seed": 9, "validation": 0.2})
    after = table(ingested(other, store)[0]).set_index("uri")["split"]
    assert before.equals(after[before.index])
    fresh = table(ingested(other, UPath(tmp_path / "fresh"))[0]).set_index("uri")["split"]
    assert not fresh.equals(before)


def test_alone_sql_and_python_agree_on_the_split(digit_folder: Path, tmp_path: Path) -> None:
    config = {"test": 0.3, "validation": 0.3, "seed": 5}
    rows = table(ingested(dataset_of(digit_folder, split=config), UPath(tmp_path / "s"))[0])
    alone = rows[rows["near"].isna() & ~rows["image_id"].isin(rows["near"])]
    assert len(alone) > 150
    assert alone["split"].tolist() == [splits.assign(image, SplitConfig(0.3, 0.3, 5)) for image in alone["image_id"]]


def test_blank_and_too_small_images_are_quarantined(digit_folder: Path, tmp_path: Path) -> None:
    Image.new("L", (50, 50), 77).save(digit_folder / "1" / "blank.png")
    Image.effect_noise((50, 3), 50).save(digit_folder / "1" / "flat.png")
    rows = rows_by_name(ingested(dataset_of(digit_folder), UPath(tmp_path / "s"))[0])
    columns = ["reason_code", "reason"]
    assert rows.loc["blank.png", columns].tolist() == ["blank", "blank: every pixel is 77"]
    assert rows.loc["flat.png", columns].tolist() == ["too_small", "too small: 50 x 3 pixels, under the limit of 4"]


def test_what_came_went_and_changed(digit_folder: Path, tmp_path: Path, digits: Digits) -> None:
    store, dataset = UPath(tmp_path / "s"), dataset_of(digit_folder)
    assert ingested(dataset, store)[0].version == 1
    assert ingested(dataset, store)[0].version == 1
    gone, moved = next(digit_folder.glob("7/*.png")), next(digit_folder.glob("5/*.png"))
    gone.unlink()
    moved.rename(digit_folder / "4" / moved.name)
    write_folder(digit_folder, digits, range(10), 3, start=300)
    assert ingested(dataset, store)[0].version == 2
    assert Store(store).find_catalog(None) == "d"
    found = history.difference(Store(store).history("d"), 1, 2).to_pandas()
    assert found["change"].value_counts().to_dict() == {"came": 4, "went": 2}
    assert set(found.loc[found["change"] == "went", "uri"]) == {str(gone), str(moved)}
    with pytest.raises(UserError, match="no catalog of 'e'"):
        Store(store).find_catalog("e")


def test_other_columns_of_the_labels_are_in_the_catalog_and_make_no_version(digit_folder: Path, tmp_path: Path) -> None:
    rows = [{"path": str(p.relative_to(digit_folder)), "label": p.parent.name, "camera": "b"}
            for p in sorted(digit_folder.rglob("*.png"))]  # fmt: skip
    rows[0]["camera"] = ""
    labels, store = tmp_path / "labels.csv", UPath(tmp_path / "s")
    pd.DataFrame(rows).to_csv(labels, index=False)
    first, _ = ingested(dataset_of(digit_folder, labels=str(labels), evaluate={"slices": ["camera"]}), store)
    found = table(first).set_index("uri")["attributes"]
    assert pd.isna(found[f"{digit_folder}/{rows[0]['path']}"])
    assert set(found.drop(f"{digit_folder}/{rows[0]['path']}")) == {'{"camera": "b"}'}
    pd.DataFrame(rows).assign(camera="c").to_csv(labels, index=False)
    second, _ = ingested(dataset_of(digit_folder, labels=str(labels)), store)
    assert set(table(second)["attributes"]) == {'{"camera": "c"}'}
    assert (second.version, second.read) == (1, 0)
    with pytest.raises(UserError, match=r"evaluate\.slices: there is no column 'camera'"):
        ingested(dataset_of(digit_folder, evaluate={"slices": ["camera"]}), UPath(tmp_path / "none"))


def packed(folder: Path, to: Path, kind: str) -> Path:
    """The folder as one file."""
    files = sorted(folder.rglob("*.png"))
    names = [str(path.relative_to(folder)) for path in files]
    match kind:
        case "zip":
            with zipfile.ZipFile(to / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                for path, name in zip(files, names, strict=True):
                    archive.write(path, name)
            return to / "a.zip"
        case "parquet":
            images = [{"bytes": path.read_bytes(), "path": name} for path, name in zip(files, names, strict=True)]
            labels = [path.parent.name for path in files]
            pq.write_table(pa.table({"image": images, "label": labels}), to / "a.parquet", row_group_size=32)
            return to / "a.parquet"
        case _:
            suffix, mode = kind.split("/")
            with tarfile.open(to / suffix, mode) as archive:
                for number, (path, name) in enumerate(zip(files, names, strict=True)):
                    os.utime(path, (number, number))
                    archive.add(path, name)
            return to / suffix


@pytest.mark.parametrize("kind", ["a.tar/w", "a.tgz/w:gz", "zip", "parquet"])
def test_every_kind_of_source_gives_the_same_images(digit_folder: Path, tmp_path: Path, kind: str) -> None:
    archive = packed(digit_folder, tmp_path, kind)
    expected = table(ingested(dataset_of(digit_folder), UPath(tmp_path / "folder"))[0])
    store, dataset = UPath(tmp_path / "s"), dataset_of(archive)
    shard_set = sharded(dataset, store)
    catalog, found = ingested(dataset, store)
    assert found.unread == ()
    rows = table(catalog)
    columns = ["image_id", "label", "split", "status"]
    assert sorted(rows[columns].to_numpy().tolist()) == sorted(expected[columns].to_numpy().tolist())
    assert shard_set.train + shard_set.validation + shard_set.test == 200


def test_a_file_that_is_added_to_an_archive_is_the_only_one_that_is_read(
    digit_folder: Path, tmp_path: Path, digits: Digits
) -> None:
    store = UPath(tmp_path / "s")
    for kind in ("zip", "a.tar/w"):
        shutil.rmtree(digit_folder)
        write_folder(digit_folder, digits, range(10), 200)
        dataset = dataset_of(packed(digit_folder, tmp_path, kind), name=f"d{kind[0]}")
        assert ingested(dataset, store)[0].read == 200
        extra = write_folder(tmp_path / f"more-{kind[0]}", digits, range(10), 10, start=300)
        for path in sorted(extra.rglob("*.png")):
            name = f"{path.parent.name}/{path.name}"
            if kind == "zip":
                with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
                    archive.write(path, name)
            else:
                with tarfile.open(tmp_path / "a.tar", "a") as added:
                    added.add(path, name)
        catalog, _ = ingested(dataset, store)
        assert (catalog.ok, catalog.read) == (210, 10)


def test_idx_brings_its_labels_and_its_test_images(tmp_path: Path, digits: Digits) -> None:
    images, labels = digits
    write_pair(tmp_path / "mnist", "train-", digits, 300)
    write_pair(tmp_path / "mnist", "t10k-", (images[300:], labels[300:]), 100)
    shard_set = sharded(dataset_of(tmp_path / "mnist", split={"test": 0.01, "near_duplicates": False}), UPath(tmp_path))
    held_out = shards.read(shard_set.files, "test", shard_set.classes)
    assert {image.tobytes() for image in images[300:400]} <= {image.tobytes() for image in held_out.pixels}
    assert shard_set.train > 280
    assert shard_set.classes == tuple("0123456789")


def test_a_glob_takes_what_it_names_and_the_folder_is_the_label(digit_folder: Path, tmp_path: Path) -> None:
    catalog, _ = ingested(dataset_of(digit_folder / "[1-3]" / "*.png"), UPath(tmp_path / "s"))
    assert catalog.classes == ("1", "2", "3")
    assert catalog.ok == len(list(digit_folder.glob("[1-3]/*.png")))
