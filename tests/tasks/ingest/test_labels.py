"""Labels: spellings of a class or a path are one, paths that do not match are shown, unlabelled images wait."""

import logging
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from upath import UPath

from resnet_core.drift.summary import summarise
from resnet_core.errors import UserError
from tests.tasks.ingest.test_ingest import dataset_of, ingested, table

DECOMPOSED, COMPOSED = (unicodedata.normalize(form, "été") for form in ("NFD", "NFC"))


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "grayline"):
        yield caplog


def draw(folder: Path, names: list[str]) -> Path:
    """Different images of 8 px noise."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = zlib.crc32(name.encode())
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8)).astype(np.uint8)).save(path)
    return folder


def rows(source: Path, store: Path, **settings: object) -> pd.DataFrame:
    split = {"near_duplicates": False}
    return table(ingested(dataset_of(source, split=split, **settings), UPath(store))[0])


def labels(path: Path, lines: list[str]) -> str:
    path.write_text("path,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


NAMES = [f"{label}/{number}.png" for label in ("cat", "dog") for number in range(6)]


@pytest.mark.parametrize("blank", [" ", "\u00a0", "\t", "\u200b"])
def test_a_blank_around_a_label_makes_no_class(tmp_path: Path, said: pytest.LogCaptureFixture, blank: str) -> None:
    lines = [f"{name},{name[:3]}{blank if number % 2 else ''}" for number, name in enumerate(NAMES)]
    found = rows(draw(tmp_path / "d", NAMES), tmp_path / "s", labels=labels(tmp_path / "l.csv", lines))
    assert sorted(found["label"].unique()) == ["cat", "dog"]
    assert f"read 'cat' and {f'cat{blank}'!a} as 'cat'" in said.text


def test_two_unicode_forms_of_a_folder_name_are_one_class(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    names = [f"{label}/{n}{i}.png" for i, label in enumerate((DECOMPOSED, COMPOSED, "dog ")) for n in range(4)]
    found = rows(draw(tmp_path / "d", names), tmp_path / "s")
    assert sorted(found["label"].unique()) == ["dog", COMPOSED]
    assert "'e\\u0301te\\u0301' and '\\xe9t\\xe9' as 'été'" in said.text


def test_a_class_in_two_cases_is_two_classes_and_a_warning_each_night(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    source = draw(tmp_path / "d", [*NAMES, *(f"Cat/{n}.png" for n in range(4))])
    for _ in range(2):
        said.clear()
        found = rows(source, tmp_path / "s")
        assert sorted(found["label"].unique()) == ["Cat", "cat", "dog"]
        assert "'Cat' and 'cat' differ by case alone" in said.text


def test_the_catalog_of_an_older_release_is_folded(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    source, file = draw(tmp_path / "d", NAMES), tmp_path / "s" / "catalog" / "d"
    rows(source, tmp_path / "s")
    (part,) = file.glob("*.parquet")
    old = pq.read_table(part)
    changed = [f"{label} " if label == "cat" else label for label in old["label"].to_pylist()]
    pq.write_table(old.set_column(old.schema.get_field_index("label"), "label", [changed]), part)
    (source / "cat" / "0.png").unlink()
    found = rows(source, tmp_path / "s")
    assert sorted(found["label"].unique()) == ["cat", "dog"]
    assert len(found) == 12
    assert "labels of earlier nights now have no blanks around them: cat" in said.text
    said.clear()
    rows(source, tmp_path / "s")
    assert "blanks" not in said.text


def test_files_of_a_mac_match_labels_of_another_system(tmp_path: Path) -> None:
    names = [f"{DECOMPOSED}/{label}{n}.png" for label in ("cat", "dog") for n in range(4)]
    lines = [unicodedata.normalize("NFC", f"{name},{name[6:9]}") for name in names]
    lines = [f"{line.partition(',')[0]},{'cat' if 'cat' in line else 'dog'}" for line in lines]
    source = draw(tmp_path / "d", names)
    found = rows(source, tmp_path / "s", labels=labels(tmp_path / "l.csv", lines))
    assert list(found["status"]) == ["ok"] * 8
    assert set(found["uri"]) == {str(source / name) for name in names}
    other = labels(tmp_path / "m.csv", [unicodedata.normalize("NFD", line) for line in lines])
    assert list(rows(source, tmp_path / "t", labels=other)["status"]) == ["ok"] * 8


def test_paths_of_a_labels_file_may_be_absolute_or_begin_with_the_sources_name(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    source = draw(tmp_path / "d", NAMES)
    ways = ["{0}/{1}", "d/{1}", ".//{1}", "file://{0}/{1}", "../" + tmp_path.name + "/d/{1}", "{1}"]
    lines = [f"{ways[number % 6].format(source, name)},{name[:3]}" for number, name in enumerate(NAMES)]
    found = rows(source, tmp_path / "s", labels=labels(tmp_path / "l.csv", lines))
    assert list(found["status"]) == ["ok"] * 12
    assert (found["label"] == [Path(uri).parent.name for uri in found["uri"]]).all()
    assert "read 8 paths as below the source, such as" in said.text


def test_paths_that_name_no_file_are_shown_beside_those_of_the_source(tmp_path: Path) -> None:
    source = draw(tmp_path / "d", NAMES)
    lines = [f"images/{name.replace('.png', '.jpg')},{name[:3]}" for name in NAMES]
    with pytest.raises(UserError) as caught:
        rows(source, tmp_path / "s", labels=labels(tmp_path / "l.csv", lines))
    assert str(caught.value).startswith(f"{tmp_path}/l.csv: 0 of 12 paths are files of the source: the labels have")
    assert str(caught.value).count("'images/cat/") == 3
    assert "the source has 'cat/0.png', 'cat/1.png', 'cat/2.png'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_without_a_label_wait_and_do_not_count_as_bad(tmp_path: Path) -> None:
    source = draw(tmp_path / "d", [*NAMES, *(f"new/{n}.png" for n in range(20))])
    file = labels(tmp_path / "l.csv", [f"{name},{name[:3]}" for name in NAMES])
    found = rows(source, tmp_path / "s", labels=file)
    assert found["status"].value_counts().to_dict() == {"unlabelled": 20, "ok": 12}
    assert set(found[found["status"] == "unlabelled"]["reason_code"]) == {"label_missing"}
    summary = summarise(pq.read_table(next((tmp_path / "s/catalog/d").glob("*.parquet"))))
    assert (summary.total, summary.ok, summary.quarantined) == (12, 12, 0)
    # Once a label is there, the image is read and learned from.
    more = [f"{name},{name[:3]}" for name in NAMES] + [f"new/{n}.png,cat" for n in range(5)]
    found = rows(source, tmp_path / "s", labels=labels(tmp_path / "l.csv", more))
    assert found["status"].value_counts().to_dict() == {"unlabelled": 15, "ok": 17}


def test_a_label_of_blanks_is_none(tmp_path: Path) -> None:
    lines = [f"{name},{name[:3] if n % 6 else ' '}" for n, name in enumerate(NAMES)]
    found = rows(draw(tmp_path / "d", NAMES), tmp_path / "s", labels=labels(tmp_path / "l.csv", lines))
    assert found["status"].value_counts().to_dict() == {"ok": 10, "unlabelled": 2}


def test_a_correction_in_another_spelling_is_of_the_same_class_and_file(tmp_path: Path) -> None:
    source = draw(tmp_path / "d", [*NAMES, f"cat/{DECOMPOSED}.png"])
    (tmp_path / "c").mkdir()
    labels(tmp_path / "c" / "c.csv", [f"../d/cat/{COMPOSED}.png,dog\u00a0", "../d/cat/1.png, dog "])
    found = rows(source, tmp_path / "s", corrections=str(tmp_path / "c")).set_index("uri")["label"]
    assert found[str(source / "cat" / f"{DECOMPOSED}.png")] == "dog"
    assert found[str(source / "cat/1.png")] == "dog"
    assert len(found) == 13


def test_names_of_classes_in_a_data_set_file_are_folded_too(tmp_path: Path) -> None:
    settings = {"recall": {f" {DECOMPOSED}": 0.9}, "costs": {f"missed_{DECOMPOSED} ": 3.0, "false_alarm": 1.0}}
    found = dataset_of(tmp_path, evaluate=settings).evaluate
    assert found.recall == {COMPOSED: 0.9}
    assert found.costs == {f"missed_{COMPOSED}": 3.0, "false_alarm": 1.0}
    with pytest.raises(ValueError, match="is there twice, in two spellings"):
        dataset_of(tmp_path, evaluate={"recall": {"a": 0.5, "a ": 0.9}})


def test_a_link_to_nothing_has_its_reason_with_and_without_a_class(tmp_path: Path) -> None:
    source = draw(tmp_path / "d", NAMES)
    for link in (source / "top.png", source / "cat" / "within.png"):
        link.symlink_to(tmp_path / "nothing.png")
    found = rows(source, tmp_path / "s", quarantine_limit=1.0)
    broken = found[found["uri"].str.endswith(("top.png", "within.png"))]
    assert broken["status"].tolist() == ["quarantined"] * 2
    assert broken["reason_code"].tolist() == ["unreachable"] * 2
    assert set(broken["reason"]) == {"unreachable: No such file or directory"}


def test_labels_of_two_files_whose_names_differ_by_their_unicode_form(tmp_path: Path) -> None:
    names = [f"{form}{n}.png" for form in (COMPOSED, DECOMPOSED) for n in range(4)]
    lines = [f"{name},{'cat' if name.startswith(COMPOSED) else 'dog'}" for name in names]
    found = rows(draw(tmp_path / "d", names), tmp_path / "s", labels=labels(tmp_path / "l.csv", lines))
    assert found.groupby("label")["uri"].nunique().to_dict() == {"cat": 4, "dog": 4}
    assert found[found["label"] == "cat"]["uri"].str.contains(COMPOSED).all()


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "1.0"), ("7", "007"), ("big cat", "big  cat"), ("cat", "'cat'"), ("cat", "c\u200bat"), ("cat", "\uff43at")],
)
def test_classes_that_a_person_hardly_tells_apart_are_named(
    tmp_path: Path, said: pytest.LogCaptureFixture, one: str, other: str
) -> None:
    lines = [f"{name},{one if name < 'd' else other}" for name in NAMES]
    found = rows(draw(tmp_path / "d", NAMES), tmp_path / "s", labels=labels(tmp_path / "l.csv", lines))
    assert set(found["label"]) == {one, other}
    assert (
        f"{min(one, other)!a} and {max(one, other)!a} differ by blanks, quotation marks, unseen characters" in said.text
    )


def test_a_class_named_like_a_missing_value_is_named(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    lines = [f"{name},{'NaN' if name < 'd' else 'dog'}" for name in NAMES]
    rows(draw(tmp_path / "d", NAMES), tmp_path / "s", labels=labels(tmp_path / "l.csv", lines))
    assert "'NaN' is the name of a class. Leave the cell empty if it means that there is none" in said.text
