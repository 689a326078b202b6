"""Ingest and preprocess: the catalog tells the truth, and nothing is read or written twice."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from upath import UPath

from resnet_core.catalog import history
from resnet_core.drift.checks import check_quarantine
from resnet_core.drift.summary import Summary, summarise
from resnet_core.errors import DataCheckError, UserError
from resnet_core.images.limits import Limits
from resnet_core.shards import format as shards
from resnet_core.shards.encryption import Keys
from resnet_core.storage.files import write_text
from resnet_core.storage.turns import holder_of
from tasks.dataset import Dataset
from tasks.ingest.catalog import write_catalog
from tasks.ingest.checks import last_accepted
from tasks.ingest.levels import decide_levels
from tasks.ingest.pixels import read_part
from tasks.ingest.preprocess import finish_shards, plan_shards, write_shard
from tasks.ingest.scan import scan
from tasks.settings import check_store
from tasks.store import Store
from tasks.values import Catalog, Scan, ShardSet
from tests.conftest import write_folder, write_labels
from tests.places import a_workspace

Digits = tuple[np.ndarray, list[str]]
LIMITS = Limits()


def dataset_of(folder: Path, **settings: object) -> Dataset:
    """Return a data set whose keys all have a value: those that are not given, the fixed defaults."""
    return Dataset.recorded({"name": "d", "source": str(folder), "image": {"size": 8}, **settings})


def ingested(dataset: Dataset, store: UPath, keys: Keys | None = None) -> tuple[Catalog, Scan]:
    """The stage as the flow runs it, without Prefect's engine."""
    here = a_workspace(store, keys=keys)
    found = scan.fn(dataset, here)
    for part in found.unread:
        read_part.fn(part, found.image, LIMITS, keys)
    found, again = decide_levels.fn(found, dataset, here)
    for part in again:
        read_part.fn(part, found.image, LIMITS, keys)
    return write_catalog.fn(found, dataset, here), found


def sharded(dataset: Dataset, store: UPath, keys: Keys | None = None) -> ShardSet:
    catalog, _ = ingested(dataset, store, keys)
    plans = plan_shards.fn(catalog, dataset, a_workspace(store, keys=keys))
    written = sum(write_shard.fn(plan, catalog, keys) for plan in plans)
    return finish_shards.fn(plans, written, catalog, dataset)


def table(catalog: Catalog) -> pd.DataFrame:
    return pd.read_parquet(catalog.path.path)


def stores(tmp_path: Path) -> list[UPath]:
    return [UPath(tmp_path / "store"), UPath(f"memory://{tmp_path.name}")]


def test_a_row_an_image_with_the_contracts_columns(digit_folder: Path, tmp_path: Path) -> None:
    catalog, _ = ingested(dataset_of(digit_folder), UPath(tmp_path / "s"))
    rows = table(catalog)
    contract = ["image_id", "uri", "label", "split", "group", "width", "height", "status", "reason_code", "reason"]
    assert set(contract) <= set(rows.columns)
    assert len(rows) == 200 == catalog.ok
    assert (rows["status"] == "ok").all()
    assert rows["image_id"].str.fullmatch("[0-9a-f]{64}").all()
    assert (rows["label"] == rows["uri"].map(lambda uri: Path(uri).parent.name)).all()
    assert set(rows["split"]) == {"train", "test"}
    assert ((rows["width"] == 8) & (rows["height"] == 8)).all()


def test_a_catalog_without_reason_codes_goes_on(digit_folder: Path, tmp_path: Path) -> None:
    store, dataset = UPath(tmp_path / "s"), dataset_of(digit_folder)
    cut = digit_folder / "3" / "cut.png"
    cut.write_bytes(next(digit_folder.glob("3/*.png")).read_bytes()[:60])
    shutil.copy(next(digit_folder.glob("1/*.png")), digit_folder / "1" / "twin.png")
    path = ingested(dataset, store)[0].path
    expected = table(ingested(dataset, store)[0])
    pq.write_table(pq.read_table(path).drop_columns(["reason_code"]), path)
    assert table(ingested(dataset, store)[0]).equals(expected)
    pq.write_table(pq.read_table(path).drop_columns(["reason_code"]), path)
    cut.unlink()
    rows = table(ingested(dataset, store)[0]).set_index("uri")
    assert rows.loc[str(cut), ["present", "reason_code"]].tolist() == [False, "truncated"]


def test_where_and_when_images_were_written_changes_nothing_that_is_learned(digit_folder: Path, tmp_path: Path) -> None:
    places = [
        digit_folder,
        *(Path(shutil.copytree(digit_folder, tmp_path / f"copy{k}" / "of digits")) for k in range(3)),
    ]
    os.utime(next(places[1].glob("3/*.png")), (0, 0))
    made = [sharded(dataset_of(place), UPath(tmp_path / f"s{k}")) for k, place in enumerate(places)]
    assert len(made[0].files) > 3
    assert len({tuple(path.name for path in found.files) for found in made}) == 1
    assert len({found.digest for found in made}) == 1


def test_bad_files_are_quarantined_with_a_reason_and_the_rest_goes_on(digit_folder: Path, tmp_path: Path) -> None:
    whole = next(digit_folder.glob("3/*.png")).read_bytes()
    (digit_folder / "3" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (digit_folder / "3" / "empty.png").write_bytes(b"")
    (digit_folder / "3" / "text.png").write_text("no image")
    Image.new("L", (8, 8)).save(digit_folder / "no-label.png")
    catalog, _ = ingested(dataset_of(digit_folder), UPath(tmp_path / "s"))
    assert (catalog.ok, catalog.quarantined, catalog.unlabelled) == (200, 3, 1)
    bad = table(catalog).query("status == 'quarantined'")
    assert {Path(uri).name: code for uri, code in zip(bad["uri"], bad["reason_code"], strict=True)} == {
        "cut.png": "truncated",
        "empty.png": "empty",
        "text.png": "not_an_image",
    }
    assert bad["split"].isna().all()
    (waiting,) = table(catalog).query("status == 'unlabelled'").to_dict("records")
    assert (Path(waiting["uri"]).name, waiting["reason_code"]) == ("no-label.png", "label_missing")


def test_the_second_run_reads_nothing(digit_folder: Path, tmp_path: Path) -> None:
    for store in stores(tmp_path):
        first, _ = ingested(dataset_of(digit_folder), store)
        again, found = ingested(dataset_of(digit_folder), store)
        assert (first.read, again.read, found.unread) == (200, 0, ())
        assert again.digest == first.digest


def test_only_new_and_changed_files_are_read(digit_folder: Path, tmp_path: Path, digits: Digits) -> None:
    store, dataset = UPath(tmp_path / "s"), dataset_of(digit_folder)
    before = table(ingested(dataset, store)[0]).set_index("uri")
    changed, gone = next(digit_folder.glob("5/*.png")), next(digit_folder.glob("7/*.png"))
    Image.fromarray(255 - np.asarray(Image.open(changed))).save(changed)
    gone.unlink()
    write_folder(digit_folder, digits, range(10), 30, start=200)
    catalog, found = ingested(dataset, store)
    assert sum(part.count for part in found.unread) == catalog.read == 31
    rows = table(catalog)
    assert (catalog.ok, rows["present"].sum(), (~rows["present"]).sum()) == (229, 229, 2)
    assert set(rows.loc[~rows["present"], "uri"]) == {str(changed), str(gone)}
    kept = rows[rows["present"]].set_index("uri")["split"]
    same = kept.index.intersection(before.index).drop(str(changed))
    assert (kept[same] == before.loc[same, "split"]).all()


def test_the_same_bytes_count_once_and_two_labels_for_them_not_at_all(digit_folder: Path, tmp_path: Path) -> None:
    one, other = list(digit_folder.glob("1/*.png"))[:2]
    shutil.copy(one, digit_folder / "1" / "again.png")
    shutil.copy(other, digit_folder / "2" / "wrong.png")
    catalog, _ = ingested(dataset_of(digit_folder), UPath(tmp_path / "s"))
    rows = table(catalog).assign(name=lambda t: t["uri"].map(lambda uri: Path(uri).name)).set_index("name")
    assert (catalog.ok, catalog.duplicate, catalog.quarantined) == (199, 1, 2)
    assert rows.loc["again.png", "status"] == "duplicate" or rows.loc[one.name, "status"] == "duplicate"
    assert rows.loc["wrong.png", "reason"].startswith("label conflict: the same bytes are '1' in ")
    assert rows.loc[other.name, "status"] == "quarantined"


def test_a_new_duplicate_does_not_displace_its_elder(digit_folder: Path, tmp_path: Path) -> None:
    store, dataset = UPath(tmp_path / "s"), dataset_of(digit_folder)
    first = ingested(dataset, store)[0]
    elder = max(digit_folder.glob("1/*.png"))
    shutil.copy(elder, digit_folder / "1" / "0.png")  # sorts before it
    rows = table(ingested(dataset, store)[0]).set_index("uri")
    assert rows.loc[str(elder), "status"] == "ok"
    assert rows.loc[str(digit_folder / "1" / "0.png"), "status"] == "duplicate"
    assert first.ok == (rows["status"] == "ok").sum()


def test_a_group_never_straddles_splits_and_labels_may_fix_them(digit_folder: Path, tmp_path: Path) -> None:
    files = sorted(digit_folder.rglob("*.png"))
    rows = [
        {
            "path": str(file.relative_to(digit_folder)),
            "label": file.parent.name,
            "group": f"patient-{k % 20}",
            "split": "validation" if k < 3 else "",
            "weight": "2" if k == 0 else "",
        }
        for k, file in enumerate(files)
    ]
    labels = write_labels(tmp_path / "labels.csv", rows[:-1])
    catalog, _ = ingested(dataset_of(digit_folder, labels=str(labels)), UPath(tmp_path / "s"))
    found = table(catalog).set_index("uri")
    assert (found.loc[[str(file) for file in files[:3]], "split"] == "validation").all()
    assert found.loc[str(files[0]), "weight"] == 2
    assert found.loc[str(files[-1]), "reason_code"] == "label_missing"
    placed = found.dropna(subset=["split"])
    assert (placed.groupby("group")["split"].nunique() == 1).all()
    assert set(placed["split"]) == {"train", "validation", "test"}


def test_a_manifest_is_a_source(digit_folder: Path, tmp_path: Path) -> None:
    files = sorted(digit_folder.rglob("*.png"))[:100]
    rows = [{"path": str(file.relative_to(digit_folder)), "label": file.parent.name} for file in files]
    csv = write_labels(digit_folder / "some.csv", [*rows, {"path": "9/none.png", "label": "9"}])
    pd.DataFrame(rows).to_parquet(digit_folder / "some.parquet")
    for manifest, quarantined in ((csv, 1), (digit_folder / "some.parquet", 0)):
        catalog, _ = ingested(dataset_of(manifest), UPath(tmp_path / manifest.suffix))
        assert (catalog.ok, catalog.quarantined) == (100, quarantined)
    missing = table(ingested(dataset_of(csv), UPath(tmp_path / ".csv"))[0]).query("status == 'quarantined'")
    assert missing["reason_code"].item() == "file_missing"


def test_a_read_that_failed_is_tried_again(digit_folder: Path, tmp_path: Path) -> None:
    store, dataset = UPath(tmp_path / "s"), dataset_of(digit_folder)
    sick = next(digit_folder.glob("1/*.png"))
    whole = sick.read_bytes()
    sick.unlink()
    sick.symlink_to(f"/proc/{os.getpid()}/mem")  # a regular file that nobody can read
    for _ in range(2):
        catalog, _ = ingested(dataset, store)
        (code,) = table(catalog).query("status == 'quarantined'")["reason_code"]
        assert code == "unreachable"
    sick.unlink()
    sick.write_bytes(whole)
    assert ingested(dataset, store)[0].ok == 200


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "there is no such folder"),
        (lambda folder: folder.mkdir(), "holds no images"),
        (lambda folder: write_one_class(folder), "two classes or more, found '3'"),
        (lambda folder: folder.write_text("x"), "not a folder, .csv, .tsv, .txt or .parquet list"),
    ],
)
def test_a_source_that_cannot_be_meant_is_the_users_error(tmp_path: Path, make: object, message: str) -> None:
    folder = tmp_path / "source"
    make(folder)  # type: ignore[operator]
    with pytest.raises(UserError) as caught:
        ingested(dataset_of(folder), UPath(tmp_path / "s"))
    assert message in str(caught.value)
    assert not (tmp_path / "s").exists()


def write_one_class(folder: Path) -> None:
    (folder / "3").mkdir(parents=True)
    Image.new("L", (8, 8)).save(folder / "3" / "a.png")


def test_shards_hold_the_good_images_and_are_reused(digit_folder: Path, tmp_path: Path) -> None:
    (digit_folder / "3" / "bad.png").write_bytes(b"x")
    for store in stores(tmp_path):
        dataset = dataset_of(digit_folder)
        first, again = sharded(dataset, store), sharded(dataset, store)
        assert (first.written, again.written) == (200, 0)
        assert (again.digest, again.files) == (first.digest, first.files)
        images = [shards.read(first.files, split, first.classes) for split in ("train", "test")]  # type: ignore[arg-type]
        assert [len(part) for part in images] == [first.train, first.test]
        assert first.train + first.test == 200
    rows = table(ingested(dataset, stores(tmp_path)[0])[0]).set_index("image_id")
    for image_id, pixels, label in zip(images[0].image_ids, images[0].pixels, images[0].labels, strict=True):
        assert np.array_equal(pixels, np.asarray(Image.open(rows.loc[image_id, "uri"])))
        assert first.classes[label] == rows.loc[image_id, "label"]


def test_growth_writes_only_the_new_shards_and_links_the_others(
    digit_folder: Path, tmp_path: Path, digits: Digits
) -> None:
    store, dataset = UPath(tmp_path / "s"), dataset_of(digit_folder)
    first = sharded(dataset, store)
    write_folder(digit_folder, digits, range(10), 30, start=200)
    second = sharded(dataset, store)
    assert (second.written, second.train + second.test) == (30, 230)
    assert second.folder != first.folder
    inodes = [{os.stat(path.path).st_ino for path in found.files} for found in (first, second)]
    assert inodes[0] < inodes[1]
    assert len(shards.read(first.files, "train", first.classes)) == first.train  # the old set is untouched


def test_a_corrected_label_changes_the_shards_without_reading_an_image(digit_folder: Path, tmp_path: Path) -> None:
    files = sorted(digit_folder.rglob("*.png"))
    rows = [{"path": str(f.relative_to(digit_folder)), "label": f.parent.name} for f in files]
    store, labels = UPath(tmp_path / "s"), tmp_path / "labels.csv"
    dataset = dataset_of(digit_folder, labels=str(write_labels(labels, rows)))
    first = sharded(dataset, store)
    rows[0]["label"] = "9"
    write_labels(labels, rows)
    catalog, _ = ingested(dataset, store)
    second = sharded(dataset, store)
    assert catalog.read == 0
    assert second.digest != first.digest
    assert 0 < second.written < 200


def uncertain(digit_folder: Path) -> list[dict[str, str]]:
    """The labels of 200 digits; the first 100 might be a 0 as well."""
    return [
        {
            "path": str(file.relative_to(digit_folder)),
            "label": file.parent.name,
            "soft_label": f"{file.parent.name}=0.75; 0=0.25" if file.parent.name != "0" and number < 100 else "",
        }
        for number, file in enumerate(sorted(digit_folder.rglob("*.png"), key=lambda file: file.name))
    ]


def test_a_night_with_soft_labels_ends_in_shards_that_have_them(digit_folder: Path, tmp_path: Path) -> None:
    rows, store, labels = uncertain(digit_folder), UPath(tmp_path / "s"), tmp_path / "labels.csv"
    dataset = dataset_of(digit_folder, labels=str(write_labels(labels, rows)))
    first = sharded(dataset, store)
    told = {str(digit_folder / row["path"]): row["soft_label"] or None for row in rows}
    found = {row["image_id"]: row for row in pq.read_table(ingested(dataset, store)[0].path.path).to_pylist()}
    assert {row["uri"]: row["soft_label"] for row in found.values()} == told
    for path in first.files:
        for row in pq.read_table(path.path, columns=["image_id", "soft_label"]).to_pylist():
            assert row["soft_label"] == found[row["image_id"]]["soft_label"]
    images = shards.read(first.files, "train", first.classes)
    assert images.soft
    for image_id, label, target in zip(
        images.image_ids, images.labels, images.soft.targets(np.arange(len(images)), images.labels), strict=True
    ):
        assert target[label] == (0.75 if found[image_id]["soft_label"] else 1)
        assert target.sum() == 1

    at, changed = next((k, row) for k, row in enumerate(rows) if row["soft_label"])
    rows[at] = changed | {"soft_label": ""}
    write_labels(labels, rows)
    second = sharded(dataset, store)
    assert second.digest != first.digest
    assert 0 < second.written < 200
    (row,) = history.difference(Store(store).history("d"), 1, 2).to_pylist()
    assert (row["change"], row["soft_label_before"], row["soft_label"]) == ("changed", changed["soft_label"], None)


def test_a_catalog_that_knows_no_soft_labels_is_read_by_the_next_night(digit_folder: Path, tmp_path: Path) -> None:
    store, dataset = UPath(tmp_path / "s"), dataset_of(digit_folder)
    path = Path(ingested(dataset, store)[0].path.path)
    written = pq.read_table(path)
    pq.write_table(written.drop_columns(["soft_label"]), path)
    for delta in Store(store).history("d").glob("*.parquet"):
        pq.write_table(pq.read_table(delta.path).drop_columns(["soft_label", "soft_label_before"]), delta.path)
    shard_set = sharded(dataset, store)
    assert pq.read_table(path).equals(written)
    assert shard_set.train + shard_set.test == 200
    labels = write_labels(tmp_path / "labels.csv", uncertain(digit_folder))
    catalog, _ = ingested(dataset_of(digit_folder, labels=str(labels)), store)
    changes = history.difference(Store(store).history("d"), 0, catalog.version)
    now = pq.read_table(catalog.path.path).sort_by("uri")["soft_label"]
    assert changes["soft_label"].to_pylist() == now.to_pylist()
    assert 0 < now.null_count < 200


def test_a_soft_label_of_a_class_that_lost_its_images_is_the_users_error(digit_folder: Path, tmp_path: Path) -> None:
    for path in (digit_folder / "8").iterdir():
        path.write_bytes(b"")
    rows = uncertain(digit_folder)
    rows[0]["soft_label"] = "0=0.5; 8=0.5"
    dataset = dataset_of(digit_folder, labels=str(write_labels(tmp_path / "labels.csv", rows)))
    with pytest.raises(UserError, match=r"labels\.csv: soft_label '0=0.5; 8=0.5' of .*: no good image's label is '8'"):
        sharded(dataset, UPath(tmp_path / "s"))


def test_test_images_of_an_unlearnable_class_alone_are_the_users_error(digit_folder: Path, tmp_path: Path) -> None:
    files = sorted(digit_folder.rglob("*.png"))
    rows = [
        {
            "path": str(f.relative_to(digit_folder)),
            "label": f.parent.name,
            "split": "test" if f.parent.name == "4" else "train",
        }
        for f in files
    ]
    labels = write_labels(tmp_path / "labels.csv", rows)
    with pytest.raises(UserError, match="no image can be held out for the test: give some of them `split` test"):
        ingested(dataset_of(digit_folder, labels=str(labels)), UPath(tmp_path / "s"))


def test_a_killed_ingest_goes_on_with_the_parts_it_has(digit_folder: Path, tmp_path: Path) -> None:
    store, dataset = UPath(tmp_path / "s"), dataset_of(digit_folder)
    found = scan.fn(dataset, a_workspace(store))
    read_part.fn(found.unread[0], dataset.image, LIMITS)
    before = os.stat(found.unread[0].path.path)
    catalog, _ = ingested(dataset, store)
    assert os.stat(found.unread[0].path.path).st_mtime_ns == before.st_mtime_ns
    assert catalog.ok == 200


def test_what_killed_nights_have_left_goes(digit_folder: Path, tmp_path: Path) -> None:
    for store in stores(tmp_path):
        left = [store / "work" / "d" / f"{day}T010203-0123abcd" for day in ("2024-02-29", "2999-02-28")]
        for folder in left:
            folder.mkdir(parents=True)
            (folder / "entries.parquet").write_bytes(b"left")
        _, found = ingested(dataset_of(digit_folder), store)
        assert not any(folder.exists() for folder in (*left, found.entries.parent))


def test_a_store_within_the_source_is_left_out(digit_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its pixels and plots are no images of the user's, on the second night as on the first."""
    store = digit_folder / "data" / "store"
    for _ in range(2):
        check_store(UPath(store))
        (store / "plot.png").write_bytes(next(digit_folder.glob("3/*.png")).read_bytes()[::-1])
        catalog, found = ingested(dataset_of(digit_folder), UPath(store))
        assert (catalog.ok, catalog.quarantined, found.ignored) == (200, 0, 1)
    assert "data/store/: left out, a store, batch or feature set of Grayline" in caplog.text


def test_a_store_that_is_the_source_is_left_out(digit_folder: Path) -> None:
    for _ in range(2):
        catalog, _ = ingested(dataset_of(digit_folder), UPath(digit_folder))
        assert (catalog.ok, catalog.quarantined) == (200, 0)


def test_files_that_are_no_images_are_counted_and_not_held_against_the_limit(
    digit_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "grayline")
    for number in range(150):
        (digit_folder / "3" / f"{number}.pdf").write_bytes(b"%PDF-1.7\n" * 50)
        (digit_folder / "3" / f"{number}.json").write_text("{}")
    (digit_folder / "3" / "cut.png").write_bytes(next(digit_folder.glob("3/*.png")).read_bytes()[:60])
    catalog, _ = ingested(dataset_of(digit_folder), UPath(tmp_path / "s"))
    assert (catalog.quarantined, catalog.foreign, catalog.ignored) == (151, 150, 150)
    assert "151 quarantined; 150 " in caplog.text
    assert "150 more files ignored" in caplog.text
    now = summarise(pq.read_table(catalog.path.path))
    assert now.quarantined_share == 1 / 201
    check_quarantine(now, 0.01)
    with pytest.raises(DataCheckError, match=r"1 of 201 images \(0\.498%\)"):
        check_quarantine(now, 0.004)


def test_what_a_nas_puts_into_the_store_changes_nothing(digit_folder: Path, tmp_path: Path) -> None:
    store = Store(UPath(tmp_path / "s"))
    dataset, here = dataset_of(digit_folder), a_workspace(store.root)
    first = sharded(dataset, store.root)
    for number in (1, 2):
        folder = store.checks("d") / f"{number:06}"
        write_text(folder / "summary.json", json.dumps({"accepted": True, "summary": Summary().to_dict()}))
    for folder in [path for path in (tmp_path / "s").rglob("*") if path.is_dir()]:
        for name in ("@eaDir", "lost+found", ".snapshot"):
            (folder / name).mkdir()
            (folder / name / "x.parquet").write_bytes(b"no table")
        (folder / "._x.parquet").write_bytes(b"no table")
    accepted = last_accepted(store.checks("d"), 3)
    assert accepted is not None
    assert accepted[0] == "000002"
    assert (store.find_catalog(None), holder_of(store.turn("d"))) == ("d", None)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(digit_folder / "3" / "new.png")
    assert ingested(dataset, store.root)[0].ok == 201
    plans = plan_shards.fn(ingested(dataset, store.root)[0], dataset, here)
    assert sum(plan.twin is not None for plan in plans) == len(first.files)
