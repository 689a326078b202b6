"""Heat maps of a batch: pictures of the rows to review, in a folder of their own."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.images.limits import DEFAULT_LIMITS
from tasks.batch import heat_maps
from tasks.batch.heat_maps import Seer, check_heat_folder, seer_of, write_heat_maps
from tasks.batch.values import Scores
from tasks.values import ModelVersion
from tests.places import a_workspace
from tests.resnet_core.model.test_classifier import a_classifier
from tests.versions import Digits

MODEL = ModelVersion("digits", "3", "", "files")
CLASSIFIER = a_classifier()
FLAWS = ({"needs_review": False}, {"label": None, "needs_review": None}, {"label": "of another version"})


@pytest.fixture(autouse=True)
def version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heat_maps, "load_classifier", lambda *_: CLASSIFIER)


def row(path: Path, **more: Any) -> dict[str, Any]:
    known = {"uri": str(path), "image_id": hashlib.sha256(path.read_bytes()).hexdigest(), "confidence": 0.5}
    return known | {"label": "a", "needs_review": True, "unknown": None} | more


def batch(folder: Path, digits: Digits, count: int = 6) -> Scores:
    """The last three rows have nothing to show: no need, a failed file, and a label that is no class."""
    (folder / "new").mkdir(parents=True)
    for number in range(count):
        Image.fromarray(digits[0][number]).save(folder / "new" / f"{number} ü.png")
    files = sorted((folder / "new").iterdir())
    rows = [row(file, **flaw) for file, flaw in zip(files, [{}] * (count - 3) + list(FLAWS), strict=True)]
    return scored(folder, rows)


def scored(folder: Path, rows: list[dict[str, Any]]) -> Scores:
    schema = pa.schema([("uri", pa.string()), ("image_id", pa.string()), ("confidence", pa.float32()),
                        ("label", pa.string()), ("needs_review", pa.bool_()), ("unknown", pa.bool_())])  # fmt: skip
    (folder / "out").mkdir(exist_ok=True)
    table = pa.Table.from_pylist(rows, schema).append_column("reason_code", pa.nulls(len(rows), pa.string()))
    pq.write_table(table, folder / "out" / "0.parquet", write_page_checksum=True)
    parts = (UPath(folder / "out" / "0.parquet"),)
    return Scores(str(folder / "new"), UPath(folder / "out"), parts, MODEL, "int8", len(rows), len(rows), 0, {}, 1.0)


def pictures(folder: Path) -> dict[str, str]:
    return {uri.rpartition("/")[2]: name for name, uri in index(folder)["pictures"].items()}


def index(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "_heatmaps.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_rows_to_review_have_a_picture_and_those_that_need_none_any_more_lose_it(
    tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, place, folder = batch(tmp_path, digits), a_workspace(UPath(tmp_path / "store")), UPath(tmp_path / "heat")
    assert write_heat_maps.fn(scores, folder, place) == 3
    named = pictures(tmp_path / "heat")
    assert sorted(named) == ["0 ü.png", "1 ü.png", "2 ü.png"]
    assert all(name.startswith(f"{uri[0]}_ü.png-") for uri, name in named.items())
    shown = Image.open(tmp_path / "heat" / named["0 ü.png"])
    assert (shown.mode, shown.size) == ("RGB", (160, 160))
    assert (index(tmp_path / "heat")["model"], index(tmp_path / "heat")["batch"]) == (
        "digits version 3",
        str(scores.output),
    )

    (tmp_path / "heat" / "of-a-person.png").write_bytes(b"mine")
    made = (tmp_path / "heat" / named["1 ü.png"]).stat().st_mtime_ns
    rows = pq.read_table(tmp_path / "out" / "0.parquet").drop_columns(["reason_code"]).to_pylist()
    scores = scored(tmp_path, [rows[0] | {"needs_review": False}, rows[1], rows[2] | {"label": "b"}])
    assert write_heat_maps.fn(scores, folder, place) == 2
    again = pictures(tmp_path / "heat")
    assert again["1 ü.png"] == named["1 ü.png"]
    assert again["2 ü.png"] != named["2 ü.png"]  # its label is another one now
    assert (tmp_path / "heat" / again["1 ü.png"]).stat().st_mtime_ns == made
    here = {path.name for path in (tmp_path / "heat").iterdir()}
    assert here == {*again.values(), "_heatmaps.json", "of-a-person.png"}

    monkeypatch.setattr(heat_maps, "_MOST", 1)  # the one of which the version is least sure
    scores = scored(tmp_path, [rows[0], rows[1] | {"confidence": 0.1}, rows[2] | {"unknown": False}])
    assert write_heat_maps.fn(scores, folder, place) == 1
    assert list(pictures(tmp_path / "heat")) == ["1 ü.png"]


def test_only_the_bytes_that_were_scored_are_shown(tmp_path: Path, digits: Digits) -> None:
    scores = batch(tmp_path, digits)
    (tmp_path / "new" / "0 ü.png").unlink()
    Image.fromarray(digits[0][50]).save(tmp_path / "new" / "1 ü.png")
    assert write_heat_maps.fn(scores, UPath(tmp_path / "heat"), a_workspace(UPath(tmp_path / "store"))) == 1
    assert list(pictures(tmp_path / "heat")) == ["2 ü.png"]


def test_the_heat_is_that_of_the_rows_own_label(tmp_path: Path, digits: Digits) -> None:
    Image.fromarray(np.kron(digits[0][0], np.ones((2, 2), np.uint8))).save(tmp_path / "0.png")
    rows = [row(tmp_path / "0.png", label=label) for label in CLASSIFIER.classes]
    found = {place: heat for place, _, heat in Seer(CLASSIFIER, DEFAULT_LIMITS).look(rows)}
    assert sorted(found) == [0, 1, 2]
    assert not np.allclose(found[0], found[1])


def test_a_folder_that_would_be_scored_or_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "new" / "b").mkdir(parents=True)
    (tmp_path / "new" / "1.png").write_bytes(b"")

    def refused(place: str, source: str, confidential: bool = False) -> str:
        with pytest.raises(UserError) as caught:
            check_heat_folder(str(tmp_path / place), str(tmp_path / source), MODEL, confidential)
        return str(caught.value)

    for place, source in (("new/heat", "new"), ("new", "new"), ("new/b/heat", "new/**/*.png")):
        assert "lies in the source, and would be scored itself" in refused(place, source)
    (tmp_path / "link").symlink_to(tmp_path / "new")
    assert "lies in the source" in refused("link/heat", "new")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x.txt").write_text("")
    assert refused("mine", "new").endswith("holds other files. Choose a new folder.")
    assert refused("mine/x.txt", "new").endswith("holds other files. Choose a new folder.")
    assert "is of encrypted data, and heat maps show its images" in refused("heat", "new", confidential=True)
    (tmp_path / "mine" / "_heatmaps.json").write_text("{}")
    assert check_heat_folder(str(tmp_path / "mine"), str(tmp_path / "new"), MODEL, False).name == "mine"
    with pytest.raises(UserError, match="belongs to the system"):
        check_heat_folder("/etc/heat", str(tmp_path / "new"), MODEL, False)


def test_a_gallery_has_none_of_encrypted_images_or_of_a_version_that_is_another_one_now(
    tmp_path: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.settings import Settings

    scores = batch(tmp_path, digits)
    with pytest.raises(UserError, match="digits version 3 is of encrypted data"):
        seer_of(replace(scores, confidential=True), Settings())
    monkeypatch.setattr(heat_maps, "find_version", lambda *_: replace(MODEL, files="others"))
    with pytest.raises(UserError, match="digits version 3 is another one now"):
        seer_of(scores, Settings())
    monkeypatch.setattr(heat_maps, "find_version", lambda *_: MODEL)
    assert seer_of(scores, Settings()).classifier is CLASSIFIER
