"""`grayline review`: which images are asked about, the files for people and tools, and the labels that come back."""

import csv
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner, Result
from upath import UPath

from flows.cli.app import app
from resnet_core.catalog.corrections import NONE_OF_THESE
from resnet_core.errors import UserError
from resnet_core.images.limits import Limits
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.model.classifier import Classifier
from resnet_core.model.resnet import build
from tasks.batch.heat_maps import Seer
from tasks.review.answers import Answers, read_answers
from tasks.review.files import WrittenQueue, write_queue
from tasks.review.queue import Queue, find_batches, make_queue
from tasks.store import Store
from tests.batches import write_batch
from tests.browser import PALE_TEXT, TOO_WIDE, UNREADABLE, chromium, opened
from tests.conftest import write_labels
from tests.hostile_names import NAMES
from tests.resnet_core.annotations.test_exports import annotated
from tests.resnet_core.model.test_classifier import a_classifier
from tests.resnet_core.model.test_resnet import TINY
from tests.versions import Digits

COUNT = 240


@pytest.fixture(scope="module")
def scores(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_batch(tmp_path_factory.mktemp("review"), digits, COUNT, bad=3)[0]


@pytest.fixture(scope="module")
def truth(digits: Digits) -> dict[str, str]:
    """The true label of each file, by its name."""
    return {f"{number:04}.png": label for number, label in enumerate(digits[1][-600:][:COUNT])}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def queue_of(scores: Path, budget: int = 40, random: float = 0.25, store: str = "/nowhere") -> Queue:
    where = Store(UPath(store))
    return make_queue(find_batches([str(scores)], where), budget, random, where)


def made(scores: Path, to: Path, **how: Any) -> WrittenQueue:
    return write_queue(queue_of(scores, **how), to, Limits())


def listed(folder: Path) -> list[dict[str, str]]:
    with (folder / "queue.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["review", *words], terminal_width=200)


def with_embeddings(scores: Path, to: Path, copies: int = 1) -> Path:
    """The same batch with rows of features; each file also under `copies` - 1 other names with almost the same."""
    shutil.copytree(scores, to)
    rng = np.random.default_rng(0)
    for part in to.glob("*.parquet"):
        table = pq.read_table(part)
        rows = [row for row in table.to_pylist() if row["status"] == "ok"]
        more = [
            row | {"uri": f"{row['uri']}-{k}", "image_id": f"{row['image_id'][:-1]}{k}",
                   "embedding": (np.log(np.array(row["probabilities"])) + rng.normal(0, 1e-4, 10)).tolist()}
            for row in rows for k in range(copies)
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(more, table.schema), part)
    return to


def test_a_share_is_drawn_at_random_and_the_rest_is_where_the_model_is_unsure(scores: Path) -> None:
    queue = queue_of(scores)
    assert queue.picks.why == {"random": 10, "unsure": 30}
    assert (queue.images, queue.labelled, queue.by_probabilities) == (COUNT, 0, True)
    assert queue.inclusion == 10 / COUNT
    rows = pd.read_parquet(scores).set_index("uri")
    sure = rows.loc[[uri for uri, why in queue.why.items() if why == "unsure"], "confidence"].mean()
    assert sure < rows["confidence"].mean() - 0.05
    assert queue.why == queue_of(scores).why  # the same command gives the same queue
    assert len(queue_of(scores, 1000, 1.0).why) == COUNT


def test_a_batch_that_has_drifted_asks_about_the_images_that_tell_it(scores: Path, tmp_path: Path) -> None:
    shutil.copytree(scores, tmp_path / "b")
    uris = sorted(queue_of(scores, 1000, 1.0).why)
    lists = {"brightness": [*uris[:2], "/gone.png"], "contrast": uris[1:4]}
    told = {name: [{"uri": uri, "value": 1.0} for uri in images] for name, images in lists.items()}
    (tmp_path / "b" / "_drift.json").write_text(json.dumps({"outermost": told}))
    queue = queue_of(tmp_path / "b", 40, 0.0)
    assert [uri for uri, why in queue.why.items() if why == "drift"] == [uris[0], uris[1], uris[2], uris[3]]
    assert queue.picks.why == {"drift": 4, "unsure": 36}
    copies = tmp_path / "a"  # the same images under names that come first
    shutil.copytree(scores, copies)
    for part in copies.glob("*.parquet"):
        table = pq.read_table(part)
        pq.write_table(
            table.set_column(
                table.schema.get_field_index("uri"), "uri", pc.binary_join_element_wise("/", table["uri"], "")
            ),
            part,
        )
    where = Store(UPath("/nowhere"))
    both = make_queue(find_batches([str(copies), str(tmp_path / "b")], where), 40, 0.0, where)
    assert both.picks.why == {"drift": 4, "unsure": 36}
    (tmp_path / "b" / "_drift.json").write_text("{}")  # of an earlier release
    assert "drift" not in queue_of(tmp_path / "b").picks.why


def test_the_random_part_is_a_fair_sample_of_all_scored_images(scores: Path, tmp_path: Path) -> None:
    """Over many versions every image is drawn equally often, sure or not, and the accuracy is right on average."""
    rows = pd.read_parquet(scores)
    rows = rows[rows["status"] == "ok"].set_index("uri")
    manifest = json.loads((scores / "_manifest.json").read_text())
    drawn = dict.fromkeys(rows.index, 0)
    means = []
    shutil.copytree(scores, tmp_path / "b")
    for version in range(60):
        (tmp_path / "b" / "_manifest.json").write_text(json.dumps(manifest | {"model_version": str(version)}))
        uris = [uri for uri, why in queue_of(tmp_path / "b", 60, 1.0).why.items() if why == "random"]
        assert len(uris) == 60
        means.append(rows.loc[uris, "confidence"].mean())
        for uri in uris:
            drawn[uri] += 1
    counts = np.array(list(drawn.values()))
    assert counts.sum() == 60 * 60
    assert 4 <= counts.min() <= counts.max() <= 27  # 15 each on average; binomial, 4 standard deviations
    error = rows["confidence"].std() * np.sqrt(1 / 60 * (1 - 60 / COUNT) / 60)
    assert abs(np.mean(means) - rows["confidence"].mean()) < 4 * error


def test_near_duplicates_and_equal_bytes_are_asked_about_once(scores: Path, tmp_path: Path) -> None:
    several = with_embeddings(scores, tmp_path / "b", copies=5)
    queue = queue_of(several, 100, 0.0)
    assert not queue.by_probabilities
    assert queue.images == 5 * COUNT
    files = [uri.rpartition("-")[0] for uri in queue.why]
    assert len(files) == len(set(files)) == 100
    found = make_queue(find_batches([str(scores), str(scores)], Store(UPath("/x"))), 20, 0.0, Store(UPath("/x")))
    assert found.images == COUNT


def test_images_with_a_label_in_the_catalog_are_asked_for_by_chance_alone(scores: Path, tmp_path: Path) -> None:
    rows = pd.read_parquet(scores)
    ids = rows[rows["status"] == "ok"]["image_id"].tolist()
    catalog = Store(UPath(tmp_path)).catalog("digits")
    Path(catalog.path).parent.mkdir(parents=True)
    known = pd.DataFrame({"image_id": ids[:200], "label": ["1"] * 199 + [None], "present": True})
    known.to_parquet(catalog.path)
    queue = queue_of(scores, 60, 0.5, str(tmp_path))
    assert queue.labelled == 199
    chosen = rows.set_index("uri").loc[[uri for uri, why in queue.why.items() if why == "unsure"], "image_id"]
    assert len(chosen)
    assert not set(chosen) & set(ids[:199])
    assert any(why == "random" and rows.set_index("uri").loc[uri, "image_id"] in ids[:199]
               for uri, why in queue.why.items())  # fmt: skip


def test_the_folder_has_the_page_the_list_and_the_files_of_tools(scores: Path, tmp_path: Path) -> None:
    written = made(scores, tmp_path / "q")
    assert (written.unseen, written.unwritable) == (0, [])
    rows = listed(tmp_path / "q")
    assert len(rows) == 40
    assert {row["label"] for row in rows} == {""}
    assert [row["reason"] for row in rows].count("random") == 10
    assert {row["inclusion"] for row in rows if row["reason"] == "random"} == {f"{10 / COUNT:.9g}"}
    assert {row["inclusion"] for row in rows if row["reason"] != "random"} == {""}
    assert {row["source"] for row in rows} == {"review q by digits version 1"}
    record = json.loads((tmp_path / "q" / "_queue.json").read_text())
    assert record["random"] | {"how": ""} == {"drawn": 10, "from": COUNT, "inclusion": 10 / COUNT, "how": ""}
    tasks = json.loads((tmp_path / "q" / "label-studio.json").read_text())
    for each, row in zip(tasks, rows, strict=True):
        assert each["data"] == {k: v for k, v in row.items() if v} | {"image": each["data"]["image"]}
        (prediction,) = each["predictions"]
        assert prediction["result"][0]["value"] == {"choices": [row["predicted"]]}
        path = tmp_path / each["data"]["image"].removeprefix("/data/local-files/?d=")
        assert f".sha256-{row['image_id']}." in path.name
        with Image.open(path) as image:
            assert image.size == (8, 8)
    config = ElementTree.parse(tmp_path / "q" / "label-studio-config.txt")
    assert [each.get("value") for each in config.iter("Choice")] == [*"0123456789", NONE_OF_THESE]
    tags = ElementTree.parse(tmp_path / "q" / "cvat.xml")
    assert [tag.get("label") for tag in tags.iter("tag")] == [row["predicted"] for row in rows]
    assert {tag.get("source") for tag in tags.iter("tag")} == {"auto"}


def labels_in(folder: Path, truth: dict[str, str]) -> list[tuple[dict[str, str], str]]:
    return [(row, truth[Path(row["path"]).name]) for row in listed(folder)]


def test_labels_come_back_from_the_list_and_from_both_tools(
    scores: Path, truth: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "q"
    made(scores, folder)
    pairs = labels_in(folder, truth)
    filled = write_labels(tmp_path / "filled.csv", [row | {"label": label} for row, label in pairs])
    tasks = json.loads((folder / "label-studio.json").read_text())
    by_path = {row["path"]: label for row, label in pairs}
    for each in tasks:
        (result,) = each["predictions"][0]["result"]
        each["annotations"] = [annotated(result | {"value": {"choices": [by_path[each["data"]["path"]]]}})]
    studio = tmp_path / "project-1.json"
    studio.write_text(json.dumps(tasks))
    more = {"inclusion": "", "annotation_id": 1, "annotator": 1, "lead_time": 2}
    records = [more | each["data"] | {"label": by_path[each["data"]["path"]]} for each in tasks]
    (tmp_path / "min.json").write_text(json.dumps(records))
    write_labels(tmp_path / "studio.csv", [{k: str(v) for k, v in record.items()} for record in records])
    tree = ElementTree.parse(folder / "cvat.xml")
    by_id = {row["image_id"]: label for row, label in pairs}
    for image in tree.iter("image"):
        (tag,) = image
        tag.set("label", by_id[str(image.get("name")).split(".")[1].removeprefix("sha256-")])
        tag.set("source", "manual")
    names = {str(image.get("name")): image[0].get("label") for image in tree.iter("image")}
    with zipfile.ZipFile(tmp_path / "cvat.zip", "w") as archive:
        archive.writestr("annotations.xml", ElementTree.tostring(tree.getroot()))
    with zipfile.ZipFile(tmp_path / "imagenet.zip", "w") as archive:
        for name, label in names.items():
            archive.writestr(f"{label}/{label}_{name}", b"")
    right = sum(row["predicted"] == label for row, label in pairs if row["inclusion"])
    for file in (filled, studio, tmp_path / "min.json", tmp_path / "studio.csv", tmp_path / "cvat.zip",
                 tmp_path / "imagenet.zip"):  # fmt: skip
        found = read_answers(str(folder), str(file))
        assert {row["path"]: row["label"] for row in found.rows} == by_path, file
        assert (found.right, found.drawn, found.missing, found.foreign) == (right, 10, 0, 0)
    untouched = read_answers(str(folder), str(folder / "cvat.xml"))  # predictions are no labels
    assert (untouched.rows, untouched.missing) == ([], 10)


def test_accuracy_needs_every_random_image_and_has_an_exact_interval() -> None:
    whole = Answers([], 5000, 90, 100, 0, 0, "d version 1")
    assert whole.accuracy() == (
        "accuracy of d version 1: 90.0% (82.4 to 95.1%, 95%), from 100 images drawn at random from 5,000"
    )  # Clopper and Pearson, as in R's binom.test(90, 100)
    assert "3 of 100 random images have no label" in Answers([], 5000, 90, 100, 3, 0, "d").accuracy()
    assert "no random part" in Answers([], 5000, 0, 0, 0, 0, "d").accuracy()


def test_the_page_has_heat_maps_where_a_version_makes_them(digits: Digits, tmp_path: Path) -> None:
    scores, _ = write_batch(tmp_path, digits, 12)
    names = tuple("0123456789")
    network = build(TINY, size=8, classes=10, seed=5)
    seer = Seer(Classifier(network, TINY, names, Preprocessing(8), a_classifier().normalisation), Limits())
    write_queue(queue_of(scores, budget=4), tmp_path / "with", Limits(), seer)
    write_queue(queue_of(scores, budget=4), tmp_path / "without", Limits())
    found = [(tmp_path / name / "queue.html").read_text().count('<img class="heat"') for name in ("with", "without")]
    assert found == [4, 0]


def test_names_of_classes_and_files_are_text_in_every_file(digits: Digits, tmp_path: Path) -> None:
    scores, _ = write_batch(tmp_path, digits, 40, classes=NAMES)
    for part in scores.glob("*.parquet"):
        table = pq.read_table(part)
        rows = table.to_pylist()
        for number, row in enumerate(rows):
            name = NAMES[number % len(NAMES)].replace("/", "")
            row["uri"] = str(Path(shutil.copy(row["uri"], tmp_path / "new" / f"{number}{part.stem}{name}.png")))
        pq.write_table(pa.Table.from_pylist(rows, table.schema), part)
    written = made(scores, tmp_path / "q", budget=30)
    assert written.unwritable == ["\x1b[2J\u202egpj.exe"]
    assert not (tmp_path / "q" / "cvat.xml").exists()
    tasks = json.loads((tmp_path / "q" / "label-studio.json").read_text())
    rows = json.loads((tmp_path / "q" / "_queue.json").read_text())["rows"]
    assert [each["data"]["path"] for each in tasks] == [row["path"] for row in rows]
    assert all(Path(row["path"]).exists() for row in rows)
    for each in tasks:
        each["annotations"] = [annotated(*each["predictions"][0]["result"])]
    (tmp_path / "ls.json").write_text(json.dumps(tasks, ensure_ascii=False), encoding="utf-8")
    done = run(str(tmp_path / "q"), "--labels", str(tmp_path / "ls.json"), "-o", str(tmp_path / "c.csv"))
    assert done.exit_code == 0, done.output
    back = read_answers(str(tmp_path / "q"), str(tmp_path / "c.csv"))
    assert [row["label"] for row in back.rows] == [row["predicted"] for row in rows]
    with chromium() as found:
        shown, said = opened(found, tmp_path / "q" / "queue.html")
        assert said == []
        assert shown.evaluate("window.pwned === undefined")
        shown.close()


def test_the_page_is_read_on_every_screen_and_exports_labels_with_their_source(
    browser: Any, scores: Path, truth: dict[str, str], tmp_path: Path
) -> None:
    made(scores, tmp_path / "q")
    for width, scheme in ((360, "dark"), (1280, "light")):
        shown, said = opened(browser, tmp_path / "q" / "queue.html", width, scheme)
        for fault in (TOO_WIDE, UNREADABLE, PALE_TEXT):
            assert shown.evaluate(fault) == []
        assert said == []
        shown.close()
    shown, _ = opened(browser, tmp_path / "q" / "queue.html")
    assert "Grayline review" in shown.text_content(".eyebrow")
    assert f"40 of {COUNT + 3} files: 30 of which the model is least sure and 10 drawn at random" in shown.inner_text(
        "main"
    )
    shown.locator(".shot").first.focus()
    names = shown.locator(".shot .file").all_text_contents()
    for name in names:
        shown.keyboard.press(truth[name])
    with shown.expect_download() as download:
        shown.click("#export")
    found = read_answers(str(tmp_path / "q"), str(shutil.copy(download.value.path(), tmp_path / "labels.csv")))
    assert {Path(row["path"]).name: row["label"] for row in found.rows} == {name: truth[name] for name in names}
    assert found.missing == 0
    assert (tmp_path / "labels.csv").read_text().count("review q by digits version 1") == 40
    shown.close()


def test_the_command(store: Path, digits: Digits, truth: dict[str, str], tmp_path: Path) -> None:
    scores, _ = write_batch(store, digits, COUNT)
    folder = tmp_path / "q"
    done = run("new", "--budget", "40", "--random", "0.25", "--to", str(folder))
    assert done.exit_code == 0, done.output
    assert "40 images of 240 to label: 30 unsure, 10 random" in done.output
    assert "the rows have no embeddings" in done.output
    assert run(str(folder)).output.startswith("0 images of the queue have labels\naccuracy: not yet; 10 of 10 random")
    filled = write_labels(folder / "queue.csv", [row | {"label": label} for row, label in labels_in(folder, truth)])
    done = run(str(folder), "-o", str(tmp_path / "corrections.csv"))
    assert done.exit_code == 0, done.output
    assert "40 images of the queue have labels\naccuracy of digits version 1: " in done.output
    assert ", 95%), from 10 images drawn at random from 240\n" in done.output
    assert pd.read_csv(tmp_path / "corrections.csv", dtype=str)["label"].tolist() == [
        row["label"] for row in csv.DictReader(filled.read_text().splitlines())
    ]
    (tmp_path / "other.csv").write_text("path,label\n/x/1.png,3\n")
    rows = listed(folder)
    zebra = write_labels(tmp_path / "zebra.csv", [rows[0] | {"label": "zebra"}, rows[1] | {"label": NONE_OF_THESE}])
    said = run(str(folder), "--labels", str(zebra)).output
    assert f"'zebra' is no class of digits version 1: 1 image, such as {rows[0]['path']}\n" in said
    assert "none of these" not in said
    ids = [rows[1]["image_id"], rows[0]["image_id"]]
    swapped = [row | {"label": "1", "image_id": image_id} for row, image_id in zip(rows, ids, strict=False)]
    write_labels(tmp_path / "swapped.csv", swapped)
    shutil.copytree(scores, scores.parent / "b")
    manifest = json.loads((scores / "_manifest.json").read_text())
    (scores.parent / "b" / "_manifest.json").write_text(json.dumps(manifest | {"model_version": "2"}))
    for words, message in (
        (["new", "--to", str(folder)], "is not empty"),
        (["new", "--budget", "0"], "--budget: 0 is not from 1 to 5,000"),
        (["new", "--random", "1.5"], "--random: 1.5 is not a share"),
        (["now"], "there is no folder now"),
        (["new", "b"], "new is by digits version 1, b by digits version 2"),
        (["new", "--labels", "x.csv"], "--labels: new is not a queue"),
        ([str(folder), "--labels", "x.csv"], "x.csv is not there. Name the export"),
        ([str(folder), str(folder), "--labels", "x.csv"], "Name one queue to read its labels"),
        ([str(folder), "--labels", str(tmp_path / "swapped.csv")], f"has the image_id of {rows[1]['path']}"),
        ([str(folder), "--annotators", "all"], "unknown annotators 'all'"),
        ([str(folder), "--labels", str(tmp_path / "other.csv")], "none of its 1 label is of an image"),
        ([str(folder), "-o", str(tmp_path / "corrections.csv")], "is there already"),
    ):
        wrong = run(*words)
        assert isinstance(wrong.exception, UserError), (words, wrong.output)
        assert message in str(wrong.exception), wrong.exception
    (scores / "_manifest.json").write_text(json.dumps(manifest | {"confidential": True}))
    assert "--in-clear" in str(run("new", "--to", str(tmp_path / "secret")).exception)
    assert not (tmp_path / "secret").exists()
