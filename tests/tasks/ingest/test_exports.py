"""Exports of labelling tools as `labels:` and `corrections:`, and what the catalog then says."""

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pandas as pd
import pytest
from upath import UPath

from resnet_core.annotations.exports import queue_file
from resnet_core.errors import UserError
from tasks.ingest.scan import scan
from tasks.survey.survey import find_labels
from tests.conftest import write_folder, write_labels
from tests.places import a_workspace
from tests.resnet_core.annotations.test_exports import annotated, chosen, task, written, zipped
from tests.tasks.ingest.test_ingest import Digits, dataset_of, ingested, table


def rows_of(source: Path, store: Path, **settings: object) -> pd.DataFrame:
    found = table(ingested(dataset_of(source, **settings), UPath(store))[0])
    return found[found["present"]].set_index("uri")


@pytest.fixture
def flat(tmp_path: Path, digits: Digits) -> dict[Path, str]:
    """40 digits in folders of cameras, by their labels."""
    truth = {}
    for number, path in enumerate(sorted(write_folder(tmp_path / "by", digits, range(2), 40).rglob("*.png"))):
        to = tmp_path / "flat" / f"cam{number % 2}" / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        truth[Path(shutil.move(path, to))] = path.parent.name
    return truth


def xml(names: dict[str, str]) -> str:
    images = "".join(
        f'<image id="{k}" name="{name}" width="8" height="8"><tag label="{label}" source="manual"></tag></image>'
        for k, (name, label) in enumerate(names.items())
    )
    return f"<annotations><version>1.1</version><meta></meta>{images}</annotations>"


def test_exports_label_the_files_that_their_tools_know_by_name(flat: dict[Path, str], tmp_path: Path) -> None:
    source = tmp_path / "flat"
    uploads = [task(f"/data/upload/1/1a2b3c4d-{path.name}", annotated(chosen(label))) for path, label in flat.items()]
    shared = [task(f"/data/local-files/?d=flat/{path.relative_to(source)}", annotated(chosen(label)))
              for path, label in flat.items()]  # fmt: skip
    items = [
        {"id": path.stem, "annotations": [{"type": "label", "label_id": int(label)}]} for path, label in flat.items()
    ]
    datumaro = {"categories": {"label": {"labels": [{"name": "0"}, {"name": "1"}]}}, "items": items}
    names = {path.name: label for path, label in flat.items()}
    lists = {"default.txt": "".join(f"{path.stem} {label}\n" for path, label in flat.items()), "synsets.txt": "0\n1\n"}
    for number, export in enumerate((
        written(tmp_path / "uploads.json", uploads),
        written(tmp_path / "shared.json", shared),
        written(tmp_path / "annotations.xml", xml(names)),
        zipped(tmp_path / "d.zip", {"annotations/default.json": json.dumps(datumaro)}),
        zipped(tmp_path / "i.zip", lists),
        zipped(tmp_path / "f.zip", {f"{label}/{label}_{name}": b"" for name, label in names.items()}),
        write_labels(source / "metadata.csv", [{"file_name": f"{path.relative_to(source)}", "label": label}
                                               for path, label in flat.items()]),
    )):  # fmt: skip
        found = scan.fn(dataset_of(source, labels=str(export)), a_workspace(UPath(tmp_path / f"s{number}")))
        rows = pd.read_parquet(found.entries.path).set_index("uri")
        assert rows["label"].to_dict() == {str(path): label for path, label in flat.items()}, export
    assert find_labels(str(source)) == [f"{source}/metadata.csv"]


def test_a_webdataset_has_its_labels_within(flat: dict[Path, str], tmp_path: Path) -> None:
    def tar(to: Path, paths: list[Path], label: str | None = None) -> Path:
        with tarfile.open(to, "w") as archive:
            for path in paths:
                archive.add(path, f"{path.stem}.png")
                text = (label or f"digit {flat[path]}").encode()
                info = tarfile.TarInfo(f"{path.stem}.cls")
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text))
        return to

    paths = list(flat)
    place = tar(tmp_path / "train-000000.tar", paths[:30])
    assert find_labels(str(place)) == [str(place)]
    settings = {"labels": str(place), "corrections": str(tar(tmp_path / "more.tar", paths[29:], "digit 0"))}
    rows = rows_of(place, tmp_path / "s", **settings)
    assert len(rows) == 41  # a file is in both, and the class files are no rows
    expected = {f"tar://{path.stem}.png::file://{place}": f"digit {flat[path]}" for path in paths[:29]}
    assert rows.loc[list(expected), "label"].to_dict() == expected
    both = rows[rows.index.str.contains(f"//{paths[29].stem}.png")]
    assert both["label"].tolist() == ["digit 0"] * 2
    assert sorted(both["status"]) == ["duplicate", "ok"]
    added = rows[rows.index.str.contains("more.tar")]
    assert len(added) == 11
    assert set(added["label"]) == {"digit 0"}


def test_a_review_comes_back_from_both_tools(digit_folder: Path, flat: dict[Path, str], tmp_path: Path) -> None:
    """The images lie elsewhere. CVAT knows names alone: the queue's list beside its export has their places."""
    corrections = tmp_path / "corrections"
    corrections.mkdir()
    ids = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in flat}
    (first, second), third = list(flat)[:2], sorted((digit_folder / "3").iterdir())[0]
    rows = [
        {"path": str(path), "label": "", "source": "review q by d version 1", "image_id": ids[path]} for path in flat
    ]
    write_labels(corrections / "queue.csv", rows)
    data = {"path": str(first), "image_id": ids[first], "source": "review q by d version 1"}
    written(corrections / "ls.json", [task("x.png", annotated(chosen("7", "label")), **data)])
    names = {queue_file("0001", ids[second], ".png"): "8", f"3/{third.name}": "9"}
    zipped(corrections / "cvat.zip", {"annotations.xml": xml(names)})
    written(corrections / "notes.json", {"a": 1})
    found = rows_of(digit_folder, tmp_path / "s", corrections=str(corrections))
    assert found.loc[[str(first), str(second), str(third)], "label"].tolist() == ["7", "8", "9"]
    assert found.loc[[str(first), str(second)], "split"].tolist() == ["train"] * 2
    assert len(found) == 202
    told = [json.loads(found.loc[str(path), "attributes"]) for path in (first, second)]
    assert [each["source"] for each in told] == ["review q by d version 1"] * 2
    with pytest.raises(UserError, match="not an export"):
        rows_of(digit_folder, tmp_path / "s2", corrections=str(corrections / "notes.json"))


def test_a_name_of_several_files_is_refused_with_the_file_of_labels(flat: dict[Path, str], tmp_path: Path) -> None:
    path = next(iter(flat))
    shutil.copy(path, path.parents[1] / "cam1" / path.name)
    export = written(tmp_path / "annotations.xml", xml({path.name: "a", "x.png": "b"}))
    for settings in ({"labels": str(export)}, {"corrections": str(export)}):
        with pytest.raises(UserError, match=rf"annotations.xml: '{path.name}' may be .cam0/.* or .cam1/"):
            rows_of(tmp_path / "flat", tmp_path / "s", **settings)
    two = [task(path.name, annotated(chosen("a")), annotated(chosen("b"))) for path in flat]
    disagreeing = written(tmp_path / "two.json", two)
    for key in ("labels", "corrections"):
        with pytest.raises(UserError, match="40 images have answers that differ"):
            rows_of(tmp_path / "flat", tmp_path / "s", **{key: str(disagreeing)})
