"""What is held out over nights: groups, small classes, fixed scenes, and a split begun anew."""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner
from upath import UPath

from flows.cli.app import app
from resnet_core.catalog import splits
from resnet_core.catalog.placement import ClassPlacement, Placement
from resnet_core.catalog.splits import SplitConfig
from resnet_core.drift.checks import SplitCheck
from resnet_core.errors import UserError
from tasks.dataset import Dataset
from tasks.ingest import placement
from tasks.ingest.again import begin_again, beginnings, seed_of
from tasks.store import Store
from tests import drawn
from tests.tasks.ingest.test_ingest import dataset_of, ingested, table

_rng = np.random.default_rng(5)


def draw(folder: Path, count: int, first: int = 0) -> Path:
    """Write different pictures of 16 pixels, made of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        Image.fromarray(_rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(folder / f"{number:03}.png")
    return folder


def two(tmp_path: Path, count: int = 12) -> Path:
    for label in ("cat", "dog"):
        draw(tmp_path / "data" / label, count)
    return tmp_path / "data"


def labelled(folder: Path, rows: Mapping[str, Mapping[str, str]], **settings: object) -> Dataset:
    """Return a data set whose labels say more of some files: path -> columns."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    labels = folder.parent / "labels.csv"
    table = [{"path": path, "label": path.split("/")[0], **rows.get(path, {})} for path in files]
    pd.DataFrame(table).to_csv(labels, index=False)
    return dataset_of(folder, labels=str(labels), **settings)


def night(dataset: Dataset, tmp_path: Path) -> pd.DataFrame:
    """The good and the waiting images after one more night."""
    rows = table(ingested(dataset, UPath(tmp_path / "s"))[0])
    rows["name"] = rows["uri"].str.split("/").str[-2:].str.join("/")
    return rows[rows["present"]].set_index("name")


def sides(rows: pd.DataFrame) -> dict[str, set[str]]:
    return rows[rows["status"] == "ok"].groupby("label")["split"].agg(set).to_dict()


BOTH = {"train", "test"}


@pytest.mark.parametrize("images", [1, 2, 7, 8])
def test_a_new_class_waits_until_it_has_eight_images(
    images: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = dataset_of(two(tmp_path))
    night(dataset, tmp_path)
    draw(tmp_path / "data" / "new", images)
    rows = night(dataset, tmp_path)
    new = rows[rows["label"] == "new"]
    if images < 8:
        assert set(sides(rows)) == {"cat", "dog"}
        assert (new["status"] == "waiting").all()
        assert (new["reason_code"] == "class_too_small").all()
        assert new["split"].isna().all()
        assert f"'new' ({images} image" in caplog.text
        draw(tmp_path / "data" / "new", 8 - images, first=images)
        rows = night(dataset, tmp_path)
        assert "no longer waiting: 'new' (8 images)" in caplog.text
    assert sides(rows)["new"] == BOTH


def test_a_class_that_shrinks_stays_while_it_is_on_both_sides(tmp_path: Path) -> None:
    dataset = dataset_of(two(tmp_path))
    draw(tmp_path / "data" / "third", 10)
    before = night(dataset, tmp_path)
    third = before[before["label"] == "third"]
    kept = [third.index[third["split"] == side][0] for side in sorted(BOTH)]
    for name in set(third.index) - set(kept):
        (tmp_path / "data" / name).unlink()
    rows = night(dataset, tmp_path)
    assert sides(rows)["third"] == BOTH
    # Without its test image it waits, and what it was is remembered.
    (tmp_path / "data" / third.index[third["split"] == "test"][0]).unlink()
    rows = night(dataset, tmp_path)
    waiting = rows[rows["label"] == "third"]
    assert waiting[["status", "split"]].to_numpy().tolist() == [["waiting", "train"]]


def test_a_wish_for_a_class_that_waits_says_so(tmp_path: Path) -> None:
    draw(two(tmp_path) / "defect", 5)
    dataset = dataset_of(tmp_path / "data", evaluate={"recall": {"defect": 0.9}})
    with pytest.raises(UserError, match=r"These classes wait for more images \(`minimum_images`\): 'defect'"):
        night(dataset, tmp_path)


def test_sixty_classes_of_two_are_one_error(tmp_path: Path) -> None:
    for number in range(60):
        draw(tmp_path / "data" / f"c{number:02}", 2)
    with pytest.raises(UserError, match=r"60 classes are too .*: 60 of 2 images.*set `minimum_images: 2`") as error:
        night(dataset_of(tmp_path / "data"), tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("given", "taken"), [(None, True), (8, False)])
def test_classes_of_four_are_taken_if_nobody_has_said_otherwise(
    given: int | None, taken: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = dataset_of(two(tmp_path, 5), **({"minimum_images": given} if given else {}))
    if not taken:
        with pytest.raises(UserError, match=r"2 of 5 images.*Two classes need at least 8"):
            night(dataset, tmp_path)
        return
    assert sides(night(dataset, tmp_path)) == {"cat": BOTH, "dog": BOTH}
    assert "classes of 4 images or more are taken" in caplog.text


def test_a_class_whose_images_all_hash_to_test_is_trained_on(tmp_path: Path) -> None:
    folder = two(tmp_path)
    made = 0
    while made < 8:
        path = draw(folder / "bird", 1, first=made) / f"{made:03}.png"
        if splits.position(hashlib.sha256(path.read_bytes()).hexdigest(), 0) < 0.25:
            made += 1
    rows = night(dataset_of(folder), tmp_path)
    bird = rows[rows["label"] == "bird"]
    assert bird["split"].value_counts().to_dict() == {"test": 7, "train": 1}
    # The one that is nearest to the border has moved.
    moved = bird.loc[bird["split"] == "train", "image_id"].iloc[0]
    assert splits.position(moved, 0) == max(splits.position(image, 0) for image in bird["image_id"])


def test_a_class_in_one_group_is_trained_on_and_the_check_names_it(tmp_path: Path) -> None:
    folder = draw(two(tmp_path) / "bird", 9).parent
    groups = {f"{label}/{k:03}.png": {"group": f"{label}{k // 2}"} for label in ("cat", "dog") for k in range(12)}
    groups |= {f"bird/{k:03}.png": {"group": "nest"} for k in range(9)}
    dataset = labelled(folder, groups)
    catalog, _ = ingested(dataset, UPath(tmp_path / "s"))
    rows = table(catalog)
    assert sides(rows) == {"cat": BOTH, "dog": BOTH, "bird": {"train"}}
    assert (rows.groupby("group")["split"].nunique() == 1).all()
    assert catalog.placement is not None
    finding = placement.check(catalog.placement, "d", SplitCheck())
    assert finding is not None
    assert finding.action == "warn"
    assert "'bird' has no test image" in finding.found
    assert "all images of 'bird' are in one group" in finding.detail


def test_a_class_that_comes_in_a_group_that_is_held_out_waits(tmp_path: Path) -> None:
    folder = two(tmp_path)
    groups = {f"{label}/{k:03}.png": {"group": f"{label}{k // 2}"} for label in ("cat", "dog") for k in range(12)}
    before = night(labelled(folder, groups), tmp_path)
    held = before.loc[before["split"] == "test", "group"].iloc[0]
    draw(folder / "bird", 9)
    groups |= {f"bird/{k:03}.png": {"group": held} for k in range(9)}
    rows = night(labelled(folder, groups), tmp_path)
    assert set(sides(rows)) == {"cat", "dog"}
    assert rows.loc[rows["label"] == "bird", "reason"].str.contains(r"its groups \(1\) are held out").all()
    draw(folder / "bird", 1, first=9)
    learned = before.loc[before["split"] == "train", "group"].iloc[0]
    rows = night(labelled(folder, groups | {"bird/009.png": {"group": learned}}), tmp_path)
    assert sides(rows)["bird"] == BOTH


def test_a_class_that_the_labels_place_is_never_too_small(tmp_path: Path) -> None:
    folder = draw(two(tmp_path) / "bird", 2).parent
    draw(folder / "fish", 2)
    fixed = {"bird/000.png": {"split": "train"}, "bird/001.png": {"split": "test"}}
    fixed |= {f"fish/{k:03}.png": {"split": "test"} for k in range(2)}
    rows = night(labelled(folder, fixed), tmp_path)
    assert sides(rows) == {"cat": BOTH, "dog": BOTH, "bird": BOTH}
    assert (rows.loc[rows["label"] == "fish", "status"] == "waiting").all()


def test_a_soft_label_that_names_a_waiting_class_ends_no_night(tmp_path: Path) -> None:
    folder = two(tmp_path)
    night(labelled(folder, {}), tmp_path)
    draw(folder / "new", 1)
    rows = night(labelled(folder, {"cat/000.png": {"soft_label": "cat=0.6; new=0.4"}}), tmp_path)
    assert rows.loc["cat/000.png", ["status", "reason"]].tolist() == [
        "waiting", "its soft label names a class that waits",
    ]  # fmt: skip
    assert (rows["status"] == "waiting").sum() == 2


def test_equal_bytes_in_two_splits_of_the_labels_count_once_and_end_no_night(tmp_path: Path) -> None:
    folder = two(tmp_path)
    shutil.copy(folder / "cat" / "000.png", folder / "cat" / "twin.png")
    fixed = {"cat/000.png": {"split": "train"}, "cat/twin.png": {"split": "test"}}
    catalog, _ = ingested(labelled(folder, fixed), UPath(tmp_path / "s"))
    rows = table(catalog).sort_values("uri").query("image_id == image_id.iloc[0]")
    assert rows[["status", "split"]].to_numpy().tolist() == [["ok", "test"], ["duplicate", "test"]]
    assert catalog.placement is not None
    assert catalog.placement.twice == 1


def test_at_least_three_groups_are_on_both_sides_and_it_does_not_depend_on_names_of_files(tmp_path: Path) -> None:
    """A seed under which the hash alone would hold out one group of twelve."""
    seed = next(seed for seed in range(1000) if sum(splits.position(f"g{k}", seed) < 0.25 for k in range(12)) == 1)
    folder = two(tmp_path, 24)
    groups = {f"{label}/{k:03}.png": {"group": f"g{k // 2}"} for label in ("cat", "dog") for k in range(24)}
    rows = night(labelled(folder, groups, split={"seed": seed}), tmp_path)
    held = set(rows.loc[rows["split"] == "test", "group"])
    assert held == set(sorted((f"g{k}" for k in range(12)), key=lambda name: splits.position(name, seed))[:3])
    renamed = tmp_path / "other" / "data"
    for path in folder.rglob("*.png"):
        to = renamed / path.parent.name / f"{99 - int(path.stem):03}.png"
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    backward = {f"{key[:4]}{99 - int(key[4:7]):03}.png": value for key, value in groups.items()}
    again = night(labelled(renamed, backward, split={"seed": seed}), tmp_path / "other")
    assert set(again.loc[again["split"] == "test", "image_id"]) == set(rows.loc[rows["split"] == "test", "image_id"])


def test_a_split_begun_anew_is_recorded_and_deals_all_images_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = two(tmp_path, 40)
    dataset, store = labelled(folder, {"cat/000.png": {"split": "test"}}), Store(UPath(tmp_path / "s"))
    before = night(dataset, tmp_path)
    begun = begin_again(store, "d", "groups\nwere added")
    assert (begun.version, begun.why) == (1, "groups were added")
    assert "@" in begun.who
    assert beginnings(store.history("d")) == (begun,)
    after = night(dataset, tmp_path)
    assert after.loc["cat/000.png", "split"] == "test"
    moved = (before["split"] != after["split"]).sum()
    assert 20 < moved < 45  # of 80, by chance 2 * 0.25 * 0.75
    free = after.drop("cat/000.png")
    expected = ["test" if splits.position(image, seed_of(0, 1)) < 0.25 else "train" for image in free["image_id"]]
    assert free["split"].tolist() == expected
    assert caplog.text.count("begins anew") == 1
    assert night(dataset, tmp_path)["split"].equals(after["split"])
    with pytest.raises(UserError, match="no catalog of 'e'"):
        begin_again(store, "e", "why")
    with pytest.raises(UserError, match="--reason"):
        begin_again(store, "d", " ")


def a_class(label: str, train: int, test: int, **more: object) -> ClassPlacement:
    return ClassPlacement(**{
        "label": label, "train": train, "validation": 0, "test": test, "waiting": 0, "units": train + test,
        "fixed": False, "free": True, **more,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("placed", "found", "detail"),
    [
        (Placement((a_class("a", 75, 25),), free=100), "25% in test", ""),
        (Placement((a_class("a", 95, 5),), free=100), "5% in test", "chance, with only 100 images: add some"),
        (Placement((a_class("a", 95, 5),), free=2), "5% in test", "earlier nights have placed most images"),
        (Placement((a_class("a", 95, 5),), fixed=100), "5% in test, every", ""),
        (
            Placement((a_class("a", 40, 60),), 0.25, (2, 0, 1, 3), ("g", True, 60), free=100),
            "60% in test; 2 groups in train, 1 in test",
            "group 'g' holds 60 of 100 images and stays on one side: name finer groups; there are only 3 groups",
        ),
        (
            Placement((a_class("a", 75, 20), a_class("b", 5, 0, free=False)), free=95),
            "'b' has no test image",
            "earlier nights have placed all images of 'b': add images, or `grayline split --again d",
        ),
    ],
)  # fmt: skip
def test_the_check_of_the_split_names_cause_and_remedy(placed: Placement, found: str, detail: str) -> None:
    finding = placement.check(placed, "d", SplitCheck())
    assert finding is not None
    assert finding.found.startswith(found)
    assert finding.action == ("warn" if detail else "ok")
    assert finding.detail.startswith(detail)


def pictures(folder: Path, made: Iterable[drawn.Picture]) -> Dataset:
    """Write a drawn data set with its labels; `group` only if there are any."""
    folder.mkdir(exist_ok=True)
    rows = []
    for number, (label, group, pixels) in enumerate(made):
        Image.fromarray(pixels).save(folder / f"{number:04}.png")
        rows.append({"path": f"{number:04}.png", "label": label, "group": group})
    labels = pd.DataFrame(rows)
    labels.drop(columns=[] if labels["group"].any() else ["group"]).to_csv(folder / "labels.csv", index=False)
    return dataset_of(folder, labels=str(folder / "labels.csv"), image={"size": 48})


@pytest.mark.parametrize("made", [drawn.cards, drawn.characters])
def test_groups_that_look_alike_are_held_out_by_their_hash(
    made: Callable[..., Iterator[drawn.Picture]], tmp_path: Path
) -> None:
    """Playing cards by deck, characters by font family: most look like a card or letter of another group."""
    dataset = pictures(tmp_path / "drawn", made(30))
    catalog, _ = ingested(dataset, UPath(tmp_path / "s"))
    rows = table(catalog)
    assert (rows["status"] == "ok").all()
    held = rows.groupby("group")["split"].first() == "test"
    assert (rows.groupby("group")["split"].nunique() == 1).all()
    assert held.to_dict() == {name: splits.position(name, 0) < 0.25 for name in held.index}
    assert all(side == BOTH for side in sides(rows).values())
    label = dict(zip(rows["image_id"], rows["label"], strict=True))
    assert all(
        label[near] != own for near, own in zip(rows["near"], rows["label"], strict=True) if isinstance(near, str)
    )
    assert catalog.placement is not None
    assert catalog.placement.leaks is not None
    assert catalog.placement.leaks > 0.2 * catalog.placement.test
    finding = placement.check(catalog.placement, "d", SplitCheck())
    assert finding is not None
    assert finding.action == "ok"


def test_a_part_on_a_jig_is_on_both_sides_and_the_line_names_the_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalog, _ = ingested(pictures(tmp_path / "drawn", drawn.jig(150)), UPath(tmp_path / "s"))
    rows = table(catalog)
    assert sides(rows) == {"ok": BOTH, "defect": BOTH}
    assert (rows["split"] == "test").mean() == pytest.approx(0.25, abs=0.1)
    assert "a fixed scene: " in caplog.text
    assert "name them by `group` in the labels (part number, day, camera)" in caplog.text
    assert catalog.placement is not None
    assert catalog.placement.leaks is not None
    assert catalog.placement.leaks > 0.5 * catalog.placement.test


def test_two_scenes_of_one_data_set_are_two_crowds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Two cameras, or the two sides of a part, each with both classes."""
    made = (
        (label, "", pixels[::-1].T.copy() if number % 2 else pixels)
        for number, (label, _, pixels) in enumerate(drawn.jig(80, share=0.4))
    )
    catalog, _ = ingested(pictures(tmp_path / "drawn", made), UPath(tmp_path / "s"))
    rows = table(catalog)
    assert sides(rows) == {"ok": BOTH, "defect": BOTH}
    assert rows["near"].notna().sum() < 0.15 * len(rows)  # 40 images of a scene are not yet a dense crowd
    assert "look alike, of 'defect', 'ok', and are not tied" in caplog.text
    number = rows["uri"].str.extract(r"(\d+)\.png")[0].astype(int)
    scene = dict(zip(rows["image_id"], number % 2, strict=True))
    pairs = rows[rows["look_alike"].notna()]
    assert len(pairs) > 3
    assert all(scene[a] == scene[b] for a, b in zip(pairs["image_id"], pairs["look_alike"], strict=True))


def test_a_jig_that_grows_night_by_night_is_as_if_it_had_come_at_once_and_each_night_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = list(drawn.jig(200))
    made = [made[k] for k in np.random.default_rng(0).permutation(len(made))]
    for count in (80, 110, 140, 170, 200, 200):  # the last night brings nothing
        caplog.clear()
        catalog, _ = ingested(pictures(tmp_path / "drawn", iter(made[:count])), UPath(tmp_path / "s"))
        assert "a fixed scene: " in caplog.text
    rows = table(catalog)
    assert rows["near"].notna().sum() <= 0.05 * len(rows)
    assert rows["crowded"].mean() > 0.7
    assert (rows["split"] == "test").mean() == pytest.approx(0.25, abs=0.1)
    named = pictures(tmp_path / "drawn", ((label, f"{k % 20}", pixels) for k, (label, _, pixels) in enumerate(made)))
    caplog.clear()
    catalog, _ = ingested(named, UPath(tmp_path / "s"))
    assert "a fixed scene: " not in caplog.text
    assert not table(catalog)["crowded"].any()


def test_the_users_split_of_a_jig_loses_no_image(tmp_path: Path) -> None:
    dataset = pictures(tmp_path / "drawn", drawn.jig(80))
    labels = pd.read_csv(str(dataset.labels)).assign(split=["train", "train", "train", "test"] * 20)
    labels.to_csv(str(dataset.labels), index=False)
    catalog, _ = ingested(dataset, UPath(tmp_path / "s"))
    rows = table(catalog).sort_values("uri")
    assert (rows["status"] == "ok").all()
    assert rows["split"].tolist() == labels["split"].tolist()
    assert catalog.placement is not None
    assert catalog.placement.copies > 10


def test_pages_of_one_form_are_no_copies(tmp_path: Path) -> None:
    catalog, _ = ingested(pictures(tmp_path / "drawn", drawn.forms(80)), UPath(tmp_path / "s"))
    rows = table(catalog)
    assert rows["near"].isna().all()
    assert rows["split"].tolist() == [splits.assign(image, SplitConfig()) for image in rows["image_id"]]
    assert catalog.placement is not None
    assert catalog.placement.leaks == 0


def test_the_command_records_a_new_beginning_and_the_log_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAYLINE_STORE", str(tmp_path / "s"))
    night(dataset_of(two(tmp_path)), tmp_path)
    done = CliRunner().invoke(app, ["split", "--again", "d", "--reason", "a new camera"])
    assert done.exit_code == 0, done.output
    assert "d: the next night begins the split anew, after version 1 (a new camera)" in done.output
    shown = CliRunner().invoke(app, ["catalog", "log"])
    assert "split begun anew after version 1: " in shown.output
    assert shown.output.rstrip().endswith(", a new camera")
    wrong = CliRunner().invoke(app, ["split", "--again", "e"])
    assert isinstance(wrong.exception, UserError)
