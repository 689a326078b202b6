"""Layout: folders and tables named like splits are splits, or classes by a stated rule, or refused with remedies."""

import io
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.storage import database
from resnet_core.storage.split_names import WORDS, read_name
from tasks.dataset import Dataset
from tasks.ingest.scan import list_files
from tests.conftest import write_labels
from tests.reference import DOCS
from tests.resnet_core.sources.test_idx import write_pair
from tests.tasks.ingest.test_ingest import Digits, ingested, table

Listed = Counter[tuple[str | None, str | None]]  # files by label and split


def write(folder: Path, names: Iterable[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return folder.with_suffix(".zip")


def tarred(folder: Path) -> Path:
    with tarfile.open(folder.with_suffix(".tar.gz"), "w:gz") as archive:
        archive.add(folder, ".")
    return folder.with_suffix(".tar.gz")


def below(*folders: str, images: int = 2) -> list[str]:
    return [f"{folder}/{number}.png" for folder in folders for number in range(images)]


def understood(source: object, *, decided: bool = False, **settings: object) -> tuple[Listed, tuple[str, ...]]:
    dataset = Dataset.model_validate({"name": "d", "source": str(source), **settings})
    with database.database() as db:
        _, given = list_files(db, dataset, (), decided=decided)
        rows = db.sql("select label, split from listed where not coalesce(ignored, false)").fetchall()
    return Counter(rows), given


SIDES = ("train/cat", "train/dog", "test/cat", "test/dog")
SPLIT = {("cat", "train"): 2, ("dog", "train"): 2, ("cat", "test"): 2, ("dog", "test"): 2}


@pytest.mark.parametrize(
    "folders",
    [
        SIDES,
        [folder.title() for folder in SIDES],
        [f"images/{folder}" for folder in SIDES],
        [f"deep/er/{folder}" for folder in SIDES],
        [folder.replace("train", "training").replace("test", "testing") for folder in SIDES],
        [folder.replace("train", "TRAIN_images").replace("test", "holdout") for folder in SIDES],
        [folder.replace("train", "train2017").replace("test", "eval2017") for folder in SIDES],
        [folder.replace("train", "seg_train/seg_train").replace("test", "seg_test/seg_test") for folder in SIDES],
        [folder.replace("train", "train/images").replace("test", "test/images") for folder in SIDES],
        ["cat/train", "cat/test", "dog/train", "dog/test"],
    ],
    ids=lambda folders: folders[0],
)
@pytest.mark.parametrize("packed", [Path, zipped, tarred])
def test_folders_that_hold_the_same_classes_are_splits(
    tmp_path: Path, folders: list[str], packed: Callable[[Path], Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "grayline")
    source = packed(write(tmp_path / "data", below(*folders)))
    found, given = understood(source)
    upper = "Cat" in folders[0]
    assert {(str(label).lower(), split): n for (label, split), n in found.items()} == SPLIT
    assert (given, upper) == (("test",), "Cat" in {label for label, _ in found})
    assert caplog.text.count("nothing is drawn from train") == 1


def test_validation_is_asked_for_or_given_and_a_side_may_lack_a_class(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "grayline")
    images = below("train/cat", "train/dog", "train/bird", images=200) + below("test/cat", "test/dog")
    source = write(tmp_path / "data", images)
    found, given = understood(source, split={"validation": 0.2})
    assert given == ("test",)
    assert {label for label, split in found if split == "test"} == {"cat", "dog"}
    assert 80 < sum(n for (_, split), n in found.items() if split == "validation") < 160
    assert "without bird" in caplog.text
    write(source, below("dev/bird", "dev/cat"))
    found, given = understood(source, split={"validation": 0.2})
    assert given == ("validation", "test")
    assert Counter(split for _, split in found.elements()) == {"train": 600, "validation": 4, "test": 4}


def test_without_a_test_folder_the_test_images_are_drawn_from_train(tmp_path: Path) -> None:
    source = write(tmp_path / "data", below("train/cat", "train/dog", "valid/cat", "valid/dog"))
    found, given = understood(source)
    assert given == ("validation",)
    assert found == {(c, s): 2 for c in ("cat", "dog") for s in (None, "validation")}
    assert understood(write(tmp_path / "one", below("train/cat", "train/dog")))[0] == {
        ("cat", None): 2,
        ("dog", None): 2,
    }


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["train/good", "test/good", "test/scratch"], "test holds classes that train lacks|single class good"),
        (["train/a", "train/b", "test/a", "test/b", "test/c"], "test holds classes that train lacks: c"),
        (["train/a", "train/b", "test"], "test holds images without class folders"),
        (["train", "test"], "train holds images without class folders"),
        (["good", "test"], "test stand beside good"),
        (["cat", "dog", "train/cat", "train/dog"], "train stand beside cat, dog"),
        (["train/a", "train/b", "test/a", "extra/a"], "test, train stand beside extra"),
        (["val/a", "test/a", "val/b", "test/b"], "not like `train` and `test`"),
        (["train_good", "train_bad", "test_good"], "like splits and like classes"),
        (["cat/train", "cat/test", "dog"], "within its folders, test, train stand beside 2 files"),
        (["bottle/train/good", "bottle/test/good", "cable/ground_truth/bent", "cable/train/x"], "beside ground_truth"),
    ],
)
def test_what_lies_in_between_is_refused_with_both_remedies(tmp_path: Path, folders: list[str], words: str) -> None:
    source = write(tmp_path / "data", below(*folders))
    with pytest.raises(UserError, match=words) as caught:
        understood(source)
    assert "column `split`" in str(caught.value)
    assert "`split: {folders: false}`" in str(caught.value)
    assert "\n" not in str(caught.value)
    found, given = understood(source, split={"folders": False})
    assert (given, {label for label, _ in found}) == ((), {folder.split("/")[0] for folder in folders})
    assert {split for _, split in found} == {None}


@pytest.mark.parametrize(
    "folders",
    [
        ["bus", "car", "train"],
        ["bus/2025", "train/2026"],
        ["valid", "invalid"],
        ["test_tube", "beaker"],
        ["latest", "contest"],
        ["cat/2025", "cat/2026", "dog/2025"],
    ],
)
def test_classes_whose_names_resemble_splits_stay_classes(tmp_path: Path, folders: list[str]) -> None:
    found, given = understood(write(tmp_path / "data", below(*folders)))
    assert ({label for label, _ in found}, given) == ({folder.split("/")[0] for folder in folders}, ())


def test_a_folder_around_the_classes_of_an_archive_is_no_class(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [*below("pets/cat", "pets/dog"), "__MACOSX/pets/cat/._0.png"])
    assert set(understood(zipped(folder))[0]) == {("cat", None), ("dog", None)}
    assert set(understood(folder)[0]) == {("pets", None)}  # its owner can name it


def test_labels_decide_about_classes_and_their_own_column_about_splits(tmp_path: Path) -> None:
    source = write(tmp_path / "data", below("train", "test", images=4))
    rows = [{"path": f"{side}/{n}.png", "label": "ab"[n % 2]} for side in ("train", "test") for n in range(4)]
    labels = write_labels(tmp_path / "labels.csv", rows)
    found, given = understood(source, labels=str(labels))
    assert (found, given) == ({(c, s): 2 for c in "ab" for s in ("train", "test")}, ("test",))
    labels = write_labels(tmp_path / "labels.csv", rows[:4])  # the others are to be scored, not to be learned
    found, given = understood(source, labels=str(labels))
    assert (given, found[None, None]) == ((), 4)
    labels = write_labels(
        tmp_path / "labels.csv", [row | {"split": "train" if k else "test"} for k, row in enumerate(rows)]
    )
    found, given = understood(source, labels=str(labels))
    assert (given, Counter(split for _, split in found.elements())) == ((), {"train": 7, "test": 1})


@pytest.mark.parametrize(
    "names",
    [
        ("train/0000.parquet", "train/0001.parquet", "test/0000.parquet"),
        ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"),
        ("default/partial-train/0000.parquet", "default/partial-train/0001.parquet", "default/test/0000.parquet"),
        ("x_train_1.parquet", "x_train_2.parquet", "x_test.parquet"),
    ],
)
def test_tables_named_like_splits_are_splits(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": [b"x"] * 4, "label": ["a", "b", "a", None]}), tmp_path / name)
    (tmp_path / "README.md").write_text("# data")
    found, given = understood(tmp_path)
    assert given == ("test",)
    assert found == {
        ("a", "train"): 4, ("b", "train"): 2, (None, "train"): 2, ("a", "test"): 2, ("b", "test"): 1, (None, "test"): 1
    }  # fmt: skip
    pq.write_table(pa.table({"image": [b"x"], "label": ["c"]}), tmp_path / names[-1])
    with pytest.raises(UserError, match="test holds classes that train lacks: c"):
        understood(tmp_path)


def test_an_official_test_set_is_the_only_one(digits: Digits, tmp_path: Path) -> None:
    write_pair(tmp_path / "idx", "train-", digits, 150, packed=True)
    write_pair(tmp_path / "idx", "t10k-", digits, 40, packed=True)
    dataset = Dataset.model_validate({"name": "d", "source": str(tmp_path / "idx"), "image": {"size": 8}})
    rows = table(ingested(dataset, UPath(tmp_path / "s"))[0]).query("status == 'ok'")
    assert set(rows["split"]) == {"train", "test"}
    assert (rows["uri"].str.contains("t10k") == (rows["split"] == "test")).all()


def test_an_image_that_lies_in_both_folders_is_a_test_image(digit_folder: Path, tmp_path: Path) -> None:
    """Public data sets repeat images: nothing of it may reach the training."""
    for number, path in enumerate(sorted(digit_folder.rglob("*.png"))):
        for side in ("train",) if number % 5 else ("train", "Test"):
            to = tmp_path / "data" / side / path.parent.name / path.name
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(path.read_bytes())
    dataset = Dataset.model_validate({"name": "d", "source": str(tmp_path / "data"), "image": {"size": 8}})
    catalog, _ = ingested(dataset, UPath(tmp_path / "s"))
    assert len(catalog.classes) == 10
    assert Counter(table(catalog).query("status == 'ok'")["split"]) == {"train": 160, "test": 40}


def test_images_that_change_sides_in_an_old_catalog_are_counted(
    digit_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, path in enumerate(sorted(digit_folder.rglob("*.png"))):
        to = tmp_path / "data" / ("train" if number % 5 else "test") / path.parent.name / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        path.rename(to)
    settings = {"name": "d", "source": str(tmp_path / "data"), "image": {"size": 8}}
    rows = [
        {"path": str(path.relative_to(tmp_path / "data")), "label": path.parent.name, "split": "train" if k else "test"}
        for k, path in enumerate(sorted((tmp_path / "data").rglob("*.png")))
    ]
    labels = str(write_labels(tmp_path / "labels.csv", rows))
    ingested(Dataset.model_validate({**settings, "labels": labels}), UPath(tmp_path / "s"))
    catalog, _ = ingested(Dataset.model_validate(settings), UPath(tmp_path / "s"))
    assert Counter(table(catalog)["split"]) == {"train": 160, "test": 40}
    assert "39 images of earlier nights change sides" in caplog.text  # one test image of before is one still


def test_every_usual_word_is_read_in_any_case_and_documented() -> None:
    page = (DOCS / "dataset-file.md").read_text(encoding="utf-8")
    for split, words in WORDS.items():
        assert ", ".join(words) in page or " and ".join(words) in page
        for word in words:
            for name in (word, word.upper(), word.title(), f"{word}_set", f"{word}-images", f"01_{word}"):
                assert read_name(name) == (split, ()), name


def test_a_folder_of_many_folders_is_read_as_before(tmp_path: Path) -> None:
    """Of images in folders of their own, only the top is a class."""
    rng = np.random.default_rng(0)
    names = [f"{label}/{rng.integers(1e9)}/0.png" for label in ("a", "b") for _ in range(50)]
    assert understood(write(tmp_path / "data", names))[0] == {("a", None): 50, ("b", None): 50}
    found = understood(f"{tmp_path}/data/*/*/*.png")[0]
    assert len(found) == 100


def test_a_glob_takes_folders_above_the_label_as_splits(tmp_path: Path) -> None:
    write(tmp_path / "data", below(*SIDES))
    found, given = understood(f"{tmp_path}/data/*/*/*.png")
    assert (found, given) == (SPLIT, ("test",))
    with pytest.raises(UserError, match="train holds images without class folders"):
        understood(f"{write(tmp_path / 'flat', below('train', 'test'))}/*/*.png")


def test_an_archive_in_memory_gives_the_same(tmp_path: Path) -> None:
    import fsspec

    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in below(*SIDES):
            archive.writestr(name, b"x")
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/layout-test/x.zip", data.getvalue())
    for name in below(*SIDES):
        fs.pipe_file(f"/layout-test/raw/{name}", b"x")
    try:
        for source in ("memory://layout-test/x.zip", "memory://layout-test/raw"):
            assert understood(source) == (SPLIT, ("test",))
    finally:
        fs.rm("/layout-test", recursive=True)


@pytest.mark.parametrize(
    ("more", "waiting"),
    [
        (["stray/1.png"], 1),
        (["stray/cat/1.png", "top.png"], 2),
        (["train_bus/cat/1.png"], 1),
        (["test/flat.png"], 1),
        (["extra/cat/1.png", "extra/dog/1.png", "extra/emu/1.png"], 3),
    ],
    ids=lambda value: str(value),
)
@pytest.mark.parametrize("make", [Path, zipped, tarred])
def test_once_names_are_splits_what_comes_beside_them_waits(
    tmp_path: Path, more: list[str], waiting: int, make: Callable[[Path], Path]
) -> None:
    source = write(tmp_path / "data", [*below(*SIDES), *more])
    found, given = understood(make(source), decided=True)
    assert given == ("test",)
    assert {key: count for key, count in found.items() if key[0]} == SPLIT
    assert sum(count for (label, _), count in found.items() if label is None) == waiting


def test_strays_within_the_classes_wait_too_and_splits_that_are_gone_give_none(tmp_path: Path) -> None:
    sides = ("cat/train", "cat/test", "dog/train", "dog/test")
    source = write(tmp_path / "data", [*below(*sides), "cat/1.png", "emu/a.png", "dog/more/b.png"])
    found, given = understood(source, decided=True)
    assert given == ("test",)
    assert {key: count for key, count in found.items() if key[0]} == SPLIT
    assert understood(write(tmp_path / "new", below("cat", "dog")), decided=True)[1] == ()
    assert understood(write(tmp_path / "train", below("train/cat", "train/dog")), decided=True)[1] == ()


def test_a_class_that_comes_in_the_test_folder_alone_waits_and_ends_no_night(
    digit_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, store = tmp_path / "data", UPath(tmp_path / "s")
    images = sorted(digit_folder.rglob("*.png"))[:80]

    def lay(side: str, label: str, paths: Iterable[Path]) -> None:
        for path in paths:
            (folder / side / label).mkdir(parents=True, exist_ok=True)
            (folder / side / label / path.name).write_bytes(path.read_bytes())

    for k, label in enumerate(("cat", "dog")):
        lay("train", label, images[20 * k : 20 * k + 12])
        lay("test", label, images[20 * k + 12 : 20 * k + 20])
    dataset = Dataset.model_validate({"name": "d", "source": str(folder), "image": {"size": 8}})
    ingested(dataset, store)
    lay("test", "emu", images[40:43])
    lay("stray", "", images[50:51])
    rows = table(ingested(dataset, store)[0])
    assert rows["status"].value_counts().to_dict() == {"ok": 40, "waiting": 3, "unlabelled": 1}
    assert "stray beside the splits: 1 image wait" in caplog.text
    assert "1 wait for a training image: 'emu'" in caplog.text
    lay("train", "emu", images[60:70])
    rows = table(ingested(dataset, store)[0])
    assert rows[rows["label"] == "emu"]["split"].value_counts().to_dict() == {"train": 10, "test": 3}
    for path in (folder / "test").rglob("*.png"):
        path.unlink()
    with pytest.raises(UserError, match=r"earlier nights have placed all .* `grayline split --again d --reason TEXT`"):
        ingested(dataset, store)


@pytest.mark.parametrize("names", [("fold1", "fold2", "fold3"), ("seen", "unseen"), ("site A", "site B")])
def test_folders_that_all_hold_the_same_folders_are_named(
    tmp_path: Path, names: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    source = write(tmp_path / "data", below(*(f"{name}/{label}" for name in names for label in ("cat", "dog"))))
    assert {label for label, _ in understood(source)[0]} == set(names)
    assert f"the classes are {', '.join(names)}, and each holds cat, dog. If those are the classes" in caplog.text
    assert {label for label, _ in understood(f"{source}/*/*/*")[0]} == {"cat", "dog"}  # the remedy
    caplog.clear()
    understood(write(tmp_path / "other", below("ok/cam1", "ok/cam2", "defect/cam1")))
    assert "each holds" not in caplog.text
