"""Corrections: labels by people win, wherever the image lies, and are of what the people saw."""

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from resnet_core.catalog.corrections import check_corrections
from resnet_core.errors import UserError
from tests.conftest import write_folder, write_labels
from tests.tasks.ingest.test_ingest import Digits, dataset_of, ingested, sharded, table


def correction(path: Path | str, label: str, image: bytes | None = None, **more: str) -> dict[str, str]:
    """A row as the gallery writes it; `image` is what was seen."""
    seen = hashlib.sha256(image).hexdigest() if image else ""
    return {
        "path": str(path), "label": label, "source": "gallery new by d version 1", "predicted": "9",
        "image_id": seen, "corrected_at": "2026-11-24T10:00:00.000Z", **more,
    }  # fmt: skip


def rows_of(source: Path, corrections: Path | str, store: UPath, **settings: object) -> pd.DataFrame:
    found = table(ingested(dataset_of(source, corrections=str(corrections), **settings), store)[0])
    return found[found["present"]].set_index("uri")


@pytest.fixture
def elsewhere(tmp_path: Path, digits: Digits) -> Path:
    """50 digits that are not in `digit_folder`, in one folder without labels."""
    for path in write_folder(tmp_path / "more", digits, range(10), 50, start=300).rglob("*.png"):
        (tmp_path / "new").mkdir(exist_ok=True)
        shutil.move(path, tmp_path / "new" / path.name)
    return tmp_path / "new"


def test_an_image_of_the_source_gets_the_corrected_label_and_says_who_gave_it(
    digit_folder: Path, tmp_path: Path
) -> None:
    store, wrong = UPath(tmp_path / "s"), sorted((digit_folder / "3").iterdir())[0]
    before = table(ingested(dataset_of(digit_folder), store)[0]).set_index("uri")
    file = write_labels(tmp_path / "labels-new.csv", [correction(wrong, "8", wrong.read_bytes())])
    after = rows_of(digit_folder, file, store)
    assert (before.loc[str(wrong), "label"], after.loc[str(wrong), "label"]) == ("3", "8")
    assert json.loads(after.loc[str(wrong), "attributes"]) == {
        "source": "gallery new by d version 1", "predicted": "9", "corrected_at": "2026-11-24T10:00:00.000Z",
    }  # fmt: skip
    others = after.index != str(wrong)
    unchanged = ["label", "split", "status", "image_id"]
    pd.testing.assert_frame_equal(after.loc[others, unchanged], before.loc[after.index[others], unchanged])
    assert after.loc[str(wrong), "split"] == before.loc[str(wrong), "split"]


def test_images_from_elsewhere_are_learned_from_and_never_held_out(
    digit_folder: Path, elsewhere: Path, tmp_path: Path
) -> None:
    store, paths = UPath(tmp_path / "s"), sorted(elsewhere.iterdir())
    file = write_labels(tmp_path / "c.csv", [correction(path, "7", path.read_bytes()) for path in paths])
    rows = rows_of(digit_folder, file, store)
    added = rows.loc[[str(path) for path in paths]]
    assert len(rows) == 250
    assert set(added["status"]) == {"ok"}
    assert set(added["split"]) == {"train"}
    assert set(added["label"]) == {"7"}
    assert {json.loads(text)["predicted"] for text in added["attributes"]} == {"9"}
    shard_set = sharded(dataset_of(digit_folder, corrections=str(file)), store)
    assert shard_set.train + shard_set.test == 250
    again, scan = ingested(dataset_of(digit_folder, corrections=str(file)), store)
    assert (again.read, scan.unread) == (0, ())


def test_a_split_that_the_table_names_holds(digit_folder: Path, elsewhere: Path, tmp_path: Path) -> None:
    path = next(elsewhere.iterdir())
    file = write_labels(tmp_path / "c.csv", [correction(path, "7", split="test")])
    assert rows_of(digit_folder, file, UPath(tmp_path / "s")).loc[str(path), "split"] == "test"


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip", "parquet"])
def test_members_of_archives_and_rows_of_tables_can_be_corrected(
    digit_folder: Path, elsewhere: Path, tmp_path: Path, kind: str
) -> None:
    paths = sorted(elsewhere.iterdir())[:5]
    if kind == "parquet":
        place = tmp_path / "new.parquet"
        pq.write_table(pa.table({"image": [path.read_bytes() for path in paths]}), place)
        uris = [f"{place}#row={number}" for number in range(5)]
    else:
        place = Path(shutil.make_archive(str(tmp_path / "new"), kind.replace("tar.gz", "gztar"), elsewhere))
        prefix = "./" if kind.startswith("tar") else ""
        uris = [f"{kind[:3]}://{prefix}{path.name}::file://{place}" for path in paths]
    rows = [correction(uri, "7", path.read_bytes()) for uri, path in zip(uris, paths, strict=True)]
    found = rows_of(digit_folder, write_labels(tmp_path / "c.csv", rows), UPath(tmp_path / "s"))
    assert found.loc[uris, "label"].tolist() == ["7"] * 5
    assert found.loc[uris, "status"].tolist() == ["ok"] * 5


def test_the_same_bytes_elsewhere_correct_the_image_of_the_source(
    digit_folder: Path, elsewhere: Path, tmp_path: Path
) -> None:
    """No conflict of labels: a person has decided it."""
    store, original = UPath(tmp_path / "s"), sorted((digit_folder / "3").iterdir())[0]
    split = rows_of(digit_folder, elsewhere, store).loc[str(original), "split"]
    copy = str(shutil.copy(original, elsewhere / "copy.png"))
    file = write_labels(tmp_path / "c.csv", [correction(copy, "8", original.read_bytes())])
    rows = rows_of(digit_folder, file, store)
    assert rows.loc[str(original), ["label", "status", "split"]].tolist() == ["8", "ok", split]
    assert rows.loc[copy, ["label", "status", "split"]].tolist() == ["8", "duplicate", split]
    # Moved to where its old label is the folder's name, it is still what the person said.
    Path(copy).rename(digit_folder / "5" / "moved.png")
    original.unlink()
    rows = rows_of(digit_folder, file, store)
    assert copy not in rows.index
    assert rows.loc[str(digit_folder / "5" / "moved.png"), ["label", "status", "split"]].tolist() == ["8", "ok", split]


def test_a_correction_is_not_of_the_bytes_that_came_later(digit_folder: Path, elsewhere: Path, tmp_path: Path) -> None:
    one, other = sorted(elsewhere.iterdir())[:2]
    inside = sorted((digit_folder / "3").iterdir())[0]
    rows = [correction(path, "7", path.read_bytes()) for path in (one, inside)]
    for path in (one, inside):
        shutil.copy(other, path)
    found = rows_of(digit_folder, write_labels(tmp_path / "c.csv", rows), UPath(tmp_path / "s"))
    assert found.loc[str(one), "status"] == "quarantined"
    assert found.loc[str(one), "reason_code"] == "label_outdated"
    assert found.loc[str(inside), "label"] == "3"


def test_files_that_are_gone_are_quarantined(digit_folder: Path, elsewhere: Path, tmp_path: Path) -> None:
    path = next(elsewhere.iterdir())
    rows = [correction(path, "7", path.read_bytes()), correction(f"tar://x.png::file://{tmp_path}/no.tar", "7")]
    path.unlink()
    found = rows_of(digit_folder, write_labels(tmp_path / "c.csv", rows), UPath(tmp_path / "s"))
    for row in rows:
        assert found.loc[row["path"], "status"] == "quarantined"
        assert found.loc[row["path"], "reason_code"] == "file_missing"


def test_of_several_corrections_the_latest_counts_whatever_its_file_is_called(
    digit_folder: Path, elsewhere: Path, tmp_path: Path
) -> None:
    """In one folder of them, as they gather there."""
    one, two, three = sorted(elsewhere.iterdir())[:3]
    copy = Path(shutil.copy(three, elsewhere / "copy.png"))
    folder = tmp_path / "corrections"
    folder.mkdir()
    later = {"corrected_at": "2026-11-25T08:00:00.000Z"}
    write_labels(
        folder / "a.csv", [correction(one, "4", **later), correction(two, "4"), correction(three, "4", **later)]
    )
    write_labels(folder / "b.csv", [correction(one, "5"), correction(two, "5"), correction(copy, "5")])
    (folder / "notes.txt").write_text("not a table")
    (folder / ".draft.csv").write_text("not, either")
    for place in (folder, f"{folder}/*.csv"):
        store = UPath(tmp_path / Path(place).name.strip("*."))
        found = rows_of(digit_folder, place, store, manifest_roots=[str(elsewhere)])
        assert found.loc[[str(one), str(two), str(three), str(copy)], "label"].tolist() == ["4", "5", "4", "4"]
        assert sorted(found.loc[[str(three), str(copy)], "status"]) == ["duplicate", "ok"]


def test_an_image_without_a_label_gets_one(digit_folder: Path, tmp_path: Path) -> None:
    """A corrected image of the source is split as the source's others are."""
    paths = sorted(digit_folder.rglob("*.png"))
    labels = [{"path": str(path.relative_to(digit_folder)), "label": path.parent.name} for path in paths[::2]]
    rest = [correction(path, path.parent.name) for path in paths[1::2]]
    file, given = write_labels(tmp_path / "c.csv", rest), write_labels(tmp_path / "labels.csv", labels)
    found = rows_of(digit_folder, file, UPath(tmp_path / "s"), labels=str(given))
    assert set(found["status"]) == {"ok"}
    assert found["label"].tolist() == [Path(uri).parent.name for uri in found.index]
    held_out = (found.loc[[str(path) for path in paths[1::2]], "split"] == "test").mean()
    assert 0.1 < held_out < 0.4


def test_nothing_yet_is_no_mistake_and_a_wrong_place_is(digit_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert len(rows_of(digit_folder, tmp_path / "none", UPath(tmp_path / "s"))) == 200
    assert len(rows_of(digit_folder, f"{tmp_path}/none/labels-*.csv", UPath(tmp_path / "s"))) == 200
    with pytest.raises(UserError, match=r"corrections: .*there is no such file or folder"):
        check_corrections(str(tmp_path / "nowhere"))
    (tmp_path / "bad.csv").write_text("uri,label\n/a.png,3\n")
    with pytest.raises(UserError, match=r"bad.csv: has no column 'path'"):
        rows_of(digit_folder, tmp_path / "bad.csv", UPath(tmp_path / "s"))


def test_sharded_images_in_a_compressed_archive_are_found_by_one_listing(tmp_path: Path, digits: Digits) -> None:
    """As many members as there are cost no more than one walk through the archive."""
    from resnet_core.sources import locate as located

    folder = write_folder(tmp_path / "raw", digits, range(10), 100)
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        for path in sorted(folder.rglob("*.png")):
            info = tarfile.TarInfo(path.name)
            info.size = len(data := path.read_bytes())
            archive.addfile(info, io.BytesIO(data))
    uris = [f"tar://{path.name}::file://{tmp_path}/x.tar.gz" for path in sorted(folder.rglob("*.png"))]
    calls: list[str] = []
    listed = located.list_tar

    def counted(place: str) -> object:
        calls.append(place)
        return listed(place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(located, "list_tar", counted)
        found = located.locate([*uris, "tar://no.png::file:///no.tar"])
    assert len(calls) == 1
    assert found["size"].to_pylist()[:-1] == [path.stat().st_size for path in sorted(folder.rglob("*.png"))]
    assert found["size"].to_pylist()[-1] is None
    assert np.all(np.diff(found["offset"].to_pylist()[:-1]) > 0)


def test_a_correction_of_a_scored_shard_is_of_the_image_that_it_was_made_of(digit_folder: Path, tmp_path: Path) -> None:
    store = UPath(tmp_path / "s")
    shard_set = sharded(dataset_of(digit_folder), store)
    place, rows = shard_set.files[0].path, pq.read_table(shard_set.files[0].path, columns=["image_id"])
    seen = rows["image_id"].to_pylist()[3]
    file = write_labels(tmp_path / "c.csv", [correction(f"{place}#row=3", "new one") | {"image_id": seen}])
    found = rows_of(digit_folder, file, store)
    assert len(found) == 200
    assert found.loc[found["label"] == "new one", "image_id"].tolist() == [seen]
