"""Flips: which decisions of the last batches another version takes otherwise, and where that is unknown."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.model.classifier import Classifier
from resnet_core.patience import UnreachableError
from tasks.dataset import Dataset, Gate
from tasks.registry.runs import client
from tasks.release.against import flips
from tasks.release.against.flips import MEASURED, check_flips, compare_on, draw_files, last_files
from tasks.values import Check, Flip, Flips, ModelVersion
from tasks.workspace import Workspace
from tests.places import a_workspace
from tests.resnet_core.model.test_classifier import a_classifier

OLD, NEW = ModelVersion("parts", "3", "", "a"), ModelVersion("parts", "4", "", "b")
EDGES = {OLD: 100.0, NEW: 131.0}  # mean gray levels above which a version says "light"


class ByBrightness(Classifier):
    """Decides by the mean gray level: light above the edge, the surer the farther."""

    edge: float

    def probabilities(self, pixels: NDArray[np.uint8], *_: object) -> NDArray[np.float32]:
        light = 1 / (1 + np.exp((self.edge - pixels.mean((1, 2))) / 10))
        return np.stack([light, 1 - light], 1).astype(np.float32)


def by_brightness(edge: float, size: int = 16, **how: Any) -> Classifier:
    like = a_classifier()
    made = ByBrightness(like.network, like.config, ("light", "dark"), Preprocessing(size, **how), like.normalisation)
    object.__setattr__(made, "edge", edge)
    return made


@pytest.fixture(autouse=True)
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[ModelVersion, Classifier]:
    """Two versions that differ on gray levels from 100 to 131."""
    made = {version: by_brightness(edge) for version, edge in EDGES.items()}
    monkeypatch.setattr(flips, "load_classifier", lambda _, version, __: made[version])
    monkeypatch.setattr(flips, "is_confidential", lambda *_: False)
    return made


def pictures(folder: Path, levels: list[int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, level in enumerate(levels):
        Image.fromarray(np.full((16, 16), level, np.uint8)).save(folder / f"{number:03}-{level}.png")
    return folder


def here(tmp_path: Path, **changes: Any) -> Workspace:
    return a_workspace(UPath(tmp_path / "store"), f"sqlite:///{tmp_path}/mlflow.db", **changes)


def compared(folder: Path, **changes: Any) -> Flips:
    files, _ = draw_files(str(folder), 1000)
    return compare_on(files, (OLD, NEW), "by hand", MEASURED, here(folder, **changes))


def test_flips_are_counted_and_those_come_first_of_which_the_old_version_was_surest(tmp_path: Path) -> None:
    found = compared(pictures(tmp_path / "new", [50, 90, 99, 104, 115, 130, 135, 200]))
    assert (found.images, found.count, found.certain, found.left_out) == (8, 3, 1, {})
    assert [Path(flip.uri).name for flip in found.first] == ["005-130.png", "004-115.png", "003-104.png"]
    first = found.first[0]
    assert first == Flip(
        first.uri, ("light", pytest.approx(0.953, abs=1e-3)), ("dark", pytest.approx(0.525, abs=1e-3)), 16
    )
    assert found.kinds == (("light", "dark", 3),)
    assert {part.name: (part.images, part.flips) for part in found.parts} == {"'light'": (5, 3), "'dark'": (3, 0)}
    assert "; 1 of which version 3 was 95% sure: 005-130.png; " in found.in_words()
    words = "37.5% (13.7% to 69.4%) of 8 images by hand; 'light' to 'dark' 3"
    assert replace(found, certain=0).in_words() == words  # Wilson's interval of 3 of 8


def test_a_slice_with_more_flips_than_elsewhere_is_named(tmp_path: Path) -> None:
    found = compared(pictures(tmp_path / "new", [*range(40, 100), *range(101, 129), *range(135, 195)]))
    more = [part for part in found.parts if part.more]
    assert more
    assert all(part.name.startswith(("brightness", "contrast", "sharpness")) and part.flips for part in more)
    assert f"significantly more on {more[0].name} ({more[0].flips} of {more[0].images})" in found.in_words()
    assert sum(part.flips for part in found.parts if part.name.startswith("brightness")) == found.count == 28


def test_files_that_say_nothing_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "new", [50, 115])
    (folder / "bad.png").write_bytes(b"no image")
    (folder / "empty.png").write_bytes(b"")
    (tmp_path / "list.csv").write_text(
        "path\n" + "".join(f"new/{path.name}\n" for path in folder.iterdir()) + "new/x\n"
    )
    found = compared(tmp_path / "list.csv")
    assert (found.images, found.count) == (2, 1)
    assert found.left_out == {"not an image": 1, "empty": 1, "unreachable": 1}
    assert found.in_words().endswith("; left out: 1 empty, 1 not an image, 1 unreachable")


def test_gray_levels_that_one_version_cannot_take_are_its_decision(
    tmp_path: Path, versions: dict[ModelVersion, Classifier]
) -> None:
    folder = pictures(tmp_path / "new", [50, 200])
    Image.fromarray(np.linspace(0.6, 1, 256, dtype=np.float32).reshape(16, 16)).save(folder / "deep.tif")
    versions[OLD], versions[NEW] = by_brightness(EDGES[OLD], levels=(0, 1)), by_brightness(EDGES[OLD])
    found = compared(folder)
    assert [(Path(flip.uri).name, flip.old[0], flip.new[0]) for flip in found.first] == [
        ("deep.tif", "light", "(failed)")
    ]
    versions[OLD] = by_brightness(EDGES[OLD], size=24)
    found = compared(folder)
    assert (found.images, found.count, found.left_out) == (2, 0, {"levels unknown": 1})


def test_reading_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pictures(tmp_path / "new", [50, 60, 70])
    monkeypatch.setattr(flips, "_SECONDS", 0.0)
    found = compared(folder)
    assert (found.images, sum(found.left_out.values())) == (0, 3)
    assert found.in_words() == "no image by hand could be compared; left out: 3 not read within 0 minutes"


def test_files_of_a_source_are_drawn_the_same_ones_every_time(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "new", list(range(50)))
    drawn, count = draw_files(str(folder), 10)
    again, _ = draw_files(str(folder / "*.png"), 10)
    assert (len(drawn), count) == (10, 50)
    assert drawn["uri"].to_pylist() == again["uri"].to_pylist()
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"--source: .*none holds no images"):
        draw_files(str(tmp_path / "none"), 10)


def write_batch(place: Workspace, name: str, levels: list[int], at: str, output: Path | None = None) -> Path:
    """A finished batch as MLflow and the store know it; its files lie in new/<name>."""
    root = Path(place.store.root.path)
    output = output or root / "scores" / name
    files = sorted(pictures(root.parent / "new" / name, levels).iterdir())
    output.mkdir(parents=True)
    rows = [{"uri": str(file), "status": "ok", "reason_code": None} for file in files]
    rows.append({"uri": str(files[0].parent / "bad.png"), "status": "failed", "reason_code": "damaged"})
    pq.write_table(pa.Table.from_pylist(rows), output / "0.parquet", write_page_checksum=True)
    manifest = {"source": str(files[0].parent), "model_name": "parts", "model_version": "3", "files": len(rows)}
    (output / "_manifest.json").write_text(json.dumps(manifest | {"scored": len(files), "finished_at": at}))
    mlflow = client(place.tracking_uri)
    found = mlflow.get_experiment_by_name("parts-scores")
    experiment = found.experiment_id if found else mlflow.create_experiment("parts-scores")
    mlflow.log_param(mlflow.create_run(experiment).info.run_id, "output", str(output))
    return output


def checked(place: Workspace, **gate: Any) -> tuple[Check, Flips | None]:
    dataset = Dataset(name="parts", source="x", gate=Gate(**gate))
    return check_flips(last_files("parts", dataset.gate.flips_images, place), OLD, NEW, dataset, place)


def test_the_gate_compares_on_the_files_of_the_last_batches_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = here(tmp_path)
    assert checked(place, flips=0.05) == (Check("flips", "at most 5.0% of decisions", "no batch yet", True), None)

    first = write_batch(place, "first", [50] * 30, "2026-11-01T00:00:00")
    second = write_batch(place, "second", [50] * 6 + [115] * 4, "2026-11-02T00:00:00", tmp_path / "elsewhere")
    check, found = checked(place, flips=0.05)
    assert found
    assert (found.images, found.count, found.of) == (40, 4, "of the last 2 batches")
    assert not check.passed
    assert check.found.startswith("10.0% (4.0% to 23.1%) of 40 images of the last 2 batches; 'light' to 'dark' 4")
    assert checked(place, flips=0.1)[0].passed
    shown, _ = checked(place)
    assert shown == Check("flips", "shown, not judged", check.found, True)
    few = checked(place, flips_images=20)[1]
    assert few
    assert (few.images, few.count) == (20, 4)  # ten of each batch: the smaller one has no more
    assert few == checked(place, flips_images=20)[1]

    for file in sorted((tmp_path / "new" / "second").glob("*-115.png"))[1:]:
        file.unlink()
    found = checked(place)[1]
    assert found
    assert (found.images, found.count, found.left_out) == (37, 1, {})  # what was deleted is no fault

    monkeypatch.setattr(flips, "_BATCHES", 1)
    found = checked(place)[1]
    assert found
    assert (found.images, found.of) == (7, "of the last batch")
    (second / "0.parquet").write_bytes(b"torn")
    assert checked(place, flips=0.05)[0].found == "no file of the last batch is there any more"
    (second / "_manifest.json").unlink()
    assert checked(place)[1].images == 30  # type: ignore[union-attr]
    moved = tmp_path / "moved"
    place.store.root.rename(moved)
    there = a_workspace(UPath(moved), place.tracking_uri)
    assert checked(there)[1].images == 30  # type: ignore[union-attr]  # a store that has moved
    (moved / "scores" / first.name / "_manifest.json").write_text("{")
    assert checked(there, flips=0.05)[0] == Check("flips", "at most 5.0% of decisions", "no batch yet", True)


def test_an_error_is_not_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = here(tmp_path)
    write_batch(place, "first", [50] * 3, "2026-11-01T00:00:00")
    for file in (tmp_path / "new" / "first").iterdir():
        file.write_bytes(b"half a fi")
    said = "no image of the last batch could be compared; left out: 3 not an image; fewer than half could be compared"
    assert checked(place, flips=0.05)[0] == Check("flips", "at most 5.0% of decisions", said, False)
    assert checked(place)[0] == Check("flips", "shown, not judged", said, True)

    pictures(tmp_path / "new" / "first", [50])
    check, found = checked(place, flips=0.05)
    assert found
    assert (found.images, found.count, check.passed) == (1, 0, False)  # two of three say nothing
    assert check.found.endswith("; left out: 2 not an image; fewer than half could be compared")
    pictures(tmp_path / "new" / "first", [50, 50])
    assert checked(place, flips=0.05)[0].passed

    def stalls(_: object) -> None:
        raise UnreachableError("/nas: cannot be looked for (a stall). Nothing was decided by that; run it again.")

    monkeypatch.setattr(flips, "locate", lambda uris: stalls(uris) if list(uris) else pa.table({}))
    check, found = checked(place, flips=0.05)
    assert (check.passed, found) == (False, None)
    assert check.found.startswith("cannot be told: /nas: cannot be looked for")
    assert checked(place)[0].passed

    def forbids(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(flips, "read_manifest", forbids)  # the batch is there, and may not be read
    check, found = checked(place, flips=0.05)
    assert (check.passed, found) == (False, None)
    assert "may not be read (Permission denied). Mend its rights" in check.found
    assert checked(place)[0].passed


def test_encrypted_images_are_marked_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pictures(tmp_path / "new", [115])
    assert not compared(folder).secret
    monkeypatch.setattr(flips, "is_confidential", lambda _, version, __: version == OLD)
    assert compared(folder).secret
