"""`grayline gallery`: what is shown of a batch, how a browser shows it, and what leaves the page."""

import csv
import hashlib
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner
from upath import UPath

from flows.cli.scores import app
from resnet_core.catalog.corrections import NONE_OF_THESE
from resnet_core.errors import UserError
from resnet_core.images.limits import Limits
from resnet_core.images.preprocessing import Preprocessing, resize
from resnet_core.inference.scores import pick
from resnet_core.model.classifier import Classifier
from resnet_core.model.resnet import build
from resnet_core.plotting.thumbnails import LOSSLESS, SIDE, thumbnails, without_bars
from resnet_core.sources.manifest import read_manifest
from resnet_core.storage.database import database
from tasks.batch.heat_maps import Seer
from tasks.report.gallery_page import find_batch, readable, write_gallery
from tests.batches import write_batch
from tests.browser import PALE_TEXT, TOO_WIDE, UNREADABLE, chromium, opened
from tests.resnet_core.model.test_classifier import a_classifier
from tests.resnet_core.model.test_resnet import TINY
from tests.resnet_core.sources.test_idx import write_pair
from tests.versions import Digits

HOSTILE = ("</script><script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "{{ 7 * 7 }}", *"3456789")
LONG = ("a class whose name is long enough to be a sentence", "averyveryverylongnamewithoutanyspaces", *"23456789")
COUNT, BAD = 120, 4


@pytest.fixture(scope="module")
def scores(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_batch(tmp_path_factory.mktemp("batch"), digits, COUNT, bad=BAD)[0]


@pytest.fixture(scope="module")
def page(scores: Path) -> Path:
    return made(scores)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def made(scores: Path, limit: int = 500, *labels: str) -> Path:
    to = scores.parents[1] / f"{limit}{''.join(labels)}.html"
    write_gallery(find_batch(str(scores), UPath("/nowhere")), UPath(to), limit, labels, Limits())
    return to


def exported(shown: Any) -> list[dict[str, str]]:
    with shown.expect_download() as download:
        shown.click("#export")
    text = Path(download.value.path()).read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def visible(shown: Any) -> list[str]:
    return shown.locator(".shot:not([hidden]) .file").all_text_contents()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_it_fits_every_screen_and_can_be_read_in_light_and_dark(
    browser: Any, page: Path, width: int, scheme: str
) -> None:
    shown, said = opened(browser, page, width, scheme)
    for size in ("small", "large"):
        shown.select_option("#size", size)
        assert shown.evaluate(TOO_WIDE) == []
        assert shown.evaluate(UNREADABLE) == []
        assert shown.evaluate(PALE_TEXT) == []
    assert shown.locator(".shot img").count() == COUNT
    ground = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", ground)[:3])) < 60) == (scheme == "dark")
    assert said == []
    shown.close()


def test_what_needs_a_person_comes_first_and_the_filters_show_what_the_rows_say(
    browser: Any, scores: Path, page: Path
) -> None:
    rows = pd.read_parquet(scores)
    good = rows[rows["status"] == "ok"].assign(name=[Path(uri).name for uri in rows[rows["status"] == "ok"]["uri"]])
    shown, said = opened(browser, page)
    everything = visible(shown)
    assert len(everything) == COUNT + BAD
    ranked = good.sort_values(["needs_review", "confidence", "uri"], ascending=[False, True, True])
    assert everything[:COUNT] == ranked["name"].tolist()
    shown.select_option("#state", "review")
    assert set(visible(shown)) == set(good[good["needs_review"]]["name"])
    shown.select_option("#state", "failed")
    assert set(visible(shown)) == {f"bad-{k:04}.png" for k in range(BAD)}
    assert "unsupported: <b>no</b> known format" in shown.text_content("#shots")
    shown.select_option("#state", "")
    shown.select_option("#label", label="3")
    assert set(visible(shown)) == set(good[good["label"] == "3"]["name"])
    shown.fill("#from", "40")
    shown.fill("#to", "70")
    between = good[(good["label"] == "3") & good["confidence"].between(0.4, 0.7)]
    assert set(visible(shown)) == set(between["name"])
    assert shown.inner_text("#shown").startswith(f"{len(between)} shown")
    shown.fill("#to", "0")
    shown.fill("#from", "1")
    assert visible(shown) == []
    shown.click("#all")
    assert visible(shown) == everything
    shown.select_option("#order", "sure")
    assert visible(shown)[:COUNT] == good.sort_values(["confidence"], ascending=False, kind="stable")["name"].tolist()
    shown.select_option("#order", "name")
    assert visible(shown) == sorted(everything)
    assert said == []
    shown.close()


def test_decisions_outlive_a_reload_and_leave_as_a_table_of_labels(browser: Any, scores: Path, page: Path) -> None:
    shown, said = opened(browser, page)
    rows = pd.read_parquet(scores).set_index("uri")
    assert shown.is_disabled("#export")
    shots = shown.locator(".shot:not(.failed)")
    for place, label in enumerate("0123456789"):
        shots.nth(place).locator("select").select_option(label)
    shots.nth(3).locator("select").select_option("")
    shown.reload()
    assert shown.inner_text("#shown").endswith("9 decided")
    assert shots.nth(1).locator("select").input_value() == "1"
    shown.select_option("#state", "done")
    assert len(visible(shown)) == 9
    shown.select_option("#state", "open")
    assert len(visible(shown)) == COUNT - 9
    table = exported(shown)
    assert sorted(row["label"] for row in table) == list("012456789")
    for row in table:
        assert row["source"] == "gallery new by digits version 1"
        assert row["predicted"] == rows.loc[row["path"], "label"]
        assert float(row["confidence"]) == pytest.approx(rows.loc[row["path"], "confidence"], abs=1e-4)
        assert row["image_id"] == hashlib.sha256(Path(row["path"]).read_bytes()).hexdigest()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row["corrected_at"])
    assert said == []
    shown.close()


def test_decisions_are_of_the_batch_on_whatever_page_of_it(browser: Any, scores: Path, page: Path) -> None:
    shown, _ = opened(browser, page)
    shown.locator(".shot:not(.failed)").first.locator("select").select_option("1")
    other = made(scores, 20, "3")
    shown.goto(other.as_uri())
    assert shown.inner_text("#shown").endswith("1 decided (1 on other pages)")
    assert len(exported(shown)) == 1
    shown.close()


def test_it_can_be_worked_with_the_keyboard_alone(browser: Any, page: Path) -> None:
    shown, said = opened(browser, page)
    names = visible(shown)
    shown.locator("#export").evaluate("node => document.getElementById('size').focus()")
    shown.keyboard.press("Tab")
    for key in ("7", "Enter", "ArrowRight", "4", "ArrowLeft", "Backspace"):
        shown.keyboard.press(key)
    focused = "document.activeElement.querySelector('.file').textContent"
    assert shown.evaluate(focused) == names[3]
    shown.keyboard.press("ArrowDown")
    wide = shown.evaluate("getComputedStyle(document.getElementById('shots')).gridTemplateColumns.split(' ').length")
    assert shown.evaluate(focused) == names[3 + wide]
    assert shown.evaluate("document.activeElement.getBoundingClientRect().top") > shown.evaluate(
        "document.getElementById('bar').getBoundingClientRect().bottom"
    )
    shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.tagName") == "SELECT"
    shown.keyboard.press("Shift+Tab")
    shown.keyboard.press("Shift+Tab")
    assert shown.evaluate("document.activeElement.id") == "export"
    shown.keyboard.press("Shift+Tab")
    labels = {Path(row["path"]).name: (row["label"], row["predicted"]) for row in exported(shown)}
    assert set(labels) == set(names[:2])
    assert labels[names[0]][0] == "7"
    assert labels[names[1]][0] == labels[names[1]][1]
    assert said == []
    shown.close()


def test_names_from_the_data_are_text_and_long_ones_fit(browser: Any, digits: Digits, tmp_path: Path) -> None:
    for name, classes in (("hostile <b>&'x", HOSTILE), ("long", LONG)):
        scores, _ = write_batch(tmp_path / name, digits, 40, classes, bad=1)
        shown, said = opened(browser, made(scores), 360)
        assert shown.evaluate(TOO_WIDE) == []
        assert shown.evaluate(UNREADABLE) == []
        assert shown.evaluate(PALE_TEXT) == []
        assert shown.locator("img[src='x'], b").count() == 0
        shown.locator(".shot select").nth(0).select_option(classes[0])
        shown.locator(".shot select").nth(1).select_option(classes[1])
        rows = exported(shown)
        assert {row["label"] for row in rows} == set(classes[:2])
        assert all(Path(row["path"]).exists() for row in rows)
        assert said == []
        shown.close()


def test_what_it_exports_is_a_table_of_labels_whatever_the_files_are_called(
    browser: Any, digits: Digits, tmp_path: Path
) -> None:
    scores, _ = write_batch(tmp_path, digits, 3)
    names = ['a "quoted", name.png', "two\nlines.png", "=1+1 日本.png"]
    (part,) = [pd.read_parquet(scores)]
    for number, name in enumerate(names):
        (tmp_path / "new" / f"{number:04}.png").rename(tmp_path / "new" / name)
    part["uri"] = [str(tmp_path / "new" / name) for name in names]
    for path in scores.glob("*.parquet"):
        table = pq.read_table(path)
        uris = pa.array([str(tmp_path / "new" / names[int(Path(uri).stem)]) for uri in table["uri"].to_pylist()])
        pq.write_table(table.set_column(table.schema.get_field_index("uri"), "uri", uris), path)
    shown, _ = opened(browser, made(scores))
    for place in range(3):
        shown.locator(".shot select").nth(place).select_option("5")
    with shown.expect_download() as download:
        shown.click("#export")
    shutil.copy(download.value.path(), tmp_path / "labels-new.csv")
    assert download.value.suggested_filename == "labels-new.csv"
    assert set(read_manifest(UPath(tmp_path / "labels-new.csv"))["path"].to_pylist()) == set(part["uri"])
    shown.close()


def test_a_browser_that_keeps_nothing_says_so_and_still_exports(browser: Any, page: Path) -> None:
    shown = browser.new_page()
    shown.add_init_script("Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }")
    shown.goto(page.as_uri())
    assert not shown.is_visible("#forgets")
    shown.locator(".shot select").first.select_option("5")
    assert "export before you close it" in shown.inner_text("#forgets")
    leaves = "() => dispatchEvent(new Event('beforeunload', { cancelable: true }))"
    assert not shown.evaluate(leaves)  # without being asked
    assert len(exported(shown)) == 1
    assert shown.evaluate(leaves)
    shown.close()


def test_of_many_classes_a_list_is_filled_when_somebody_comes_to_it(
    browser: Any, digits: Digits, tmp_path: Path
) -> None:
    classes = [f"class {number}" for number in range(300)]
    shown, said = opened(browser, made(write_batch(tmp_path, digits, 50, classes)[0]))
    select = shown.locator(".shot select").nth(7)
    assert select.locator("option").count() == 1
    select.focus()
    select.select_option("class 299")
    shown.reload()
    assert select.input_value() == "class 299"
    select.focus()
    assert (select.locator("option").count(), select.input_value()) == (302, "class 299")
    assert [row["label"] for row in exported(shown)] == ["class 299"]
    assert said == []
    shown.close()


def test_what_is_gone_or_has_changed_is_not_shown_and_cannot_be_labelled(
    browser: Any, digits: Digits, tmp_path: Path
) -> None:
    scores, _ = write_batch(tmp_path, digits, 20, bad=1)
    (tmp_path / "new" / "0003.png").unlink()
    shutil.copy(tmp_path / "new" / "0005.png", tmp_path / "new" / "0004.png")
    batch = find_batch(str(scores), UPath(tmp_path))
    found = write_gallery(batch, UPath(tmp_path / "g.html"), 100, [], Limits())
    assert (found.shown, found.unseen) == (21, 2)
    shown, _ = opened(browser, tmp_path / "g.html")
    for name, why in (("0003.png", "the file is gone"), ("0004.png", "has changed since"), ("bad-0000.png", "<b>no")):
        shot = shown.locator(".shot", has_text=name)
        assert why in shot.text_content()
        assert shot.locator("select, img").count() == 0
    shown.close()


def test_a_key_lays_the_heat_over_the_pictures(browser: Any, digits: Digits, tmp_path: Path) -> None:
    scores, _ = write_batch(tmp_path, digits, 6, bad=1)
    (tmp_path / "new" / "0005.png").unlink()
    like = a_classifier()
    names = tuple("0123456789")
    network = build(TINY, size=8, classes=10, seed=5)
    seer = Seer(Classifier(network, TINY, names, Preprocessing(8), like.normalisation), Limits())
    write_gallery(find_batch(str(scores), UPath(tmp_path)), UPath(tmp_path / "g.html"), 100, [], Limits(), seer)
    shown, said = opened(browser, tmp_path / "g.html")
    heat = shown.locator(".shot .heat")
    assert heat.count() == 5
    assert not heat.first.is_visible()
    first = shown.locator(".shot:has(.heat)").first
    first.focus()
    shown.keyboard.press(".")
    boxes = [first.locator(".frame img").nth(k).bounding_box() for k in (0, 1)]
    assert boxes[0] == boxes[1]
    assert shown.is_checked("#heat")
    shown.keyboard.press(" ")  # enlarged, the heat is there, too
    assert shown.locator("#picture .heat").is_visible()
    shown.keyboard.press(".")
    assert not shown.locator("#picture .heat").is_visible()
    shown.keyboard.press("Escape")
    assert not heat.first.is_visible()
    assert shown.inner_text("#shown").endswith("0 decided")
    for wrong in (TOO_WIDE, UNREADABLE, PALE_TEXT):
        assert shown.evaluate(wrong) == []
    assert said == []
    shown.close()


@pytest.mark.parametrize("limit", [1, 7, 100, 2_000])
def test_of_a_large_batch_it_takes_what_needs_a_person_and_some_of_everything(tmp_path: Path, limit: int) -> None:
    """200,000 rows in files of 10,000."""
    random = np.random.default_rng(0)
    files = []
    for part in range(20):
        numbers = np.arange(part * 10_000, (part + 1) * 10_000)
        confidence = random.random(len(numbers)).astype(np.float32)
        good = random.random(len(numbers)) > 0.01
        table = {
            "image_id": [f"{number:064}" for number in numbers],
            "uri": [f"/it's/{number:06}.png" for number in numbers],
            "status": np.where(good, "ok", "failed"),
            "reason": [None if ok else "empty" for ok in good],
            "label": [f"class {number % 10}" if ok else None for number, ok in zip(numbers, good, strict=True)],
            "confidence": pa.array(confidence, mask=~good),
            "needs_review": pa.array(confidence < 0.001, mask=~good),
        }
        files.append(str(tmp_path / f"it's {part}.parquet"))
        pq.write_table(pa.table(table), files[-1])
    with database() as db:
        found = pick(db, files, limit)
        only = pick(db, files, limit, ["class 3", "class 4"])
    rows = found.rows.to_pandas()
    assert (len(rows), rows["uri"].nunique(), found.files) == (limit, limit, 200_000)
    assert sum(found.why.values()) == limit
    everything = pd.concat(pd.read_parquet(file) for file in files)
    worst = everything[everything["status"] == "ok"].sort_values(["confidence", "uri"])
    chosen = found.why.get("review", 0) + found.why.get("unsure", 0)
    assert set(worst["uri"][:chosen]) <= set(rows["uri"])
    assert found.review == (worst["needs_review"].astype(bool)).sum()
    assert found.why.get("failed", 0) == (rows["status"] == "failed").sum() == int(limit * 0.1)
    if limit >= 100:
        assert rows["label"].nunique() == 10
        assert found.why["drawn"] == pytest.approx(limit * 0.2, abs=1)
        assert rows["confidence"].max() > 0.8
    assert set(only.rows["label"].to_pylist()) <= {"class 3", "class 4"}
    assert len(only.rows) == limit
    assert only.files == everything["label"].isin(["class 3", "class 4"]).sum()


def test_thumbnails_are_the_image_in_its_own_shape(tmp_path: Path, photograph: Image.Image) -> None:
    gray = photograph.convert("L")
    for name, size in (("wide.png", (500, 120)), ("tall.png", (90, 400)), ("small.png", (30, 20))):
        gray.resize(size).save(tmp_path / name)
    names = ["wide.png", "tall.png", "small.png", "none.png"]
    (tmp_path / "none.png").write_bytes(b"")
    uris, sides = [str(tmp_path / name) for name in names], [500, 400, 30, None]
    found = dict(thumbnails(uris, sides, Limits()))
    assert [(found[k].width, found[k].height) for k in range(3)] == [(SIDE, 54), (50, SIDE), (30, 20)]
    assert found[3].reason.startswith("empty")
    small = np.asarray(Image.open(io.BytesIO(found[2].webp)).convert("L"))
    assert max(small.shape) < LOSSLESS
    np.testing.assert_array_equal(small, np.asarray(Image.open(tmp_path / "small.png")))
    wide = np.asarray(Image.open(io.BytesIO(found[0].webp)).convert("L")).astype(int)
    expected = np.asarray(gray.resize((500, 120)).resize((SIDE, 54), Image.Resampling.BOX)).astype(int)
    assert np.abs(wide - expected).mean() < 8


def test_bars_are_cut_off_whatever_the_shape() -> None:
    random = np.random.default_rng(0)
    for height, width in ((50, 50), (1, 300), (300, 1), (299, 300), (7, 224)):
        gray = random.integers(1, 255, (height, width), np.uint8)
        square = resize(gray, Preprocessing(size=100, resize="fit"))
        found = without_bars(square, width, height)
        assert found.min() > 0
        assert found.sum() == square.sum()


def test_members_of_archives_rows_of_tables_and_shards_have_pictures(digit_folder: Path, tmp_path: Path) -> None:
    from resnet_core.sources.source import list_source
    from tests.tasks.ingest.test_ingest import dataset_of, sharded

    paths = sorted(digit_folder.rglob("*.png"))[:30]
    shutil.make_archive(str(tmp_path / "x"), "zip", digit_folder)
    shutil.make_archive(str(tmp_path / "y"), "gztar", digit_folder)
    pq.write_table(pa.table({"image": [path.read_bytes() for path in paths]}), tmp_path / "z.parquet")
    shard_set = sharded(dataset_of(digit_folder), UPath(tmp_path / "store"))
    for source in (tmp_path / "x.zip", tmp_path / "y.tar.gz", tmp_path / "z.parquet", Path(shard_set.folder.path)):
        rows = [row for batch in list_source(str(source)) for row in batch.to_pylist() if not row["ignored"]][:20]
        rows.reverse()
        uris = [row["uri"] for row in rows]
        found = dict(thumbnails(uris, [8] * len(uris), Limits()))
        assert len(found) == len(uris) == 20
        originals = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in digit_folder.rglob("*.png")}
        for number in range(20):
            picture = np.asarray(Image.open(io.BytesIO(found[number].webp)).convert("L"))
            np.testing.assert_array_equal(picture, np.asarray(Image.open(originals[str(found[number].image_id)])))


def test_images_of_an_idx_file_have_pictures(digits: Digits, tmp_path: Path) -> None:
    place = write_pair(tmp_path, "t10k-", digits, 40, packed=True)
    found = dict(thumbnails([f"{place}#image={number}" for number in (30, 3, 50)], [8] * 3, Limits()))
    for number, image in ((0, 30), (1, 3)):
        picture = np.asarray(Image.open(io.BytesIO(found[number].webp)).convert("L"))
        np.testing.assert_array_equal(picture, digits[0][image])
    assert found[2].reason.startswith("unreachable")


def test_pictures_are_whole_upright_and_in_the_colors_of_their_files(tmp_path: Path) -> None:
    levels = np.zeros((30, 60, 3), np.uint8)
    levels[:, :30, 0], levels[:, 30:, 2] = 255, 255  # red at the left, blue at the right
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn: red is above
    opacity = np.zeros((30, 60), np.uint8)
    opacity[:, :30] = 255
    files = {
        "colors.png": Image.fromarray(levels), "turned.png": Image.fromarray(levels),
        "alpha.png": Image.fromarray(np.dstack([levels, opacity])),
        "gray.png": Image.fromarray(levels[..., 0]), "gray-as-rgb.png": Image.fromarray(levels[..., 0]).convert("RGB"),
        "deep.png": Image.fromarray(levels[..., 0].astype(np.uint16) * 257),
    }  # fmt: skip
    for name, image in files.items():
        image.save(tmp_path / name, **({"exif": turned} if name == "turned.png" else {}))
    found = dict(thumbnails([str(tmp_path / name) for name in files], [60] * len(files), Limits()))
    pictures = [np.asarray(Image.open(io.BytesIO(found[n].webp)).convert("RGB")).astype(int) for n in range(len(files))]
    colors, upright, alpha, *grays = pictures
    assert colors.shape == (30, 60, 3)
    assert colors[15, 5].tolist() == [255, 0, 0]
    assert colors[15, 55].tolist() == [0, 0, 255]
    assert upright.shape == (60, 30, 3)
    assert (upright[5, 15].tolist(), upright[55, 15].tolist()) == ([255, 0, 0], [0, 0, 255])
    assert (alpha[15, 5].tolist(), alpha[15, 55].tolist()) == ([255, 0, 0], [0, 0, 0])  # over black
    for gray in grays:
        assert (gray == gray[..., :1]).all()
        assert gray[15, 5, 0] == 255


def test_a_click_or_the_space_bar_enlarges_a_picture(browser: Any, page: Path) -> None:
    shown, said = opened(browser, page)
    small = shown.locator(".shot img").first
    small.click()
    large = shown.locator("#picture img")
    assert large.bounding_box()["width"] > 2 * small.bounding_box()["width"]
    assert large.get_attribute("src") == small.get_attribute("src")
    large.click()
    assert not shown.is_visible("#large")
    shown.keyboard.press(" ")
    assert shown.is_visible("#large")
    shown.keyboard.press("Escape")
    assert not shown.is_visible("#large")
    assert said == []
    shown.close()


def test_an_image_can_be_of_no_class(browser: Any, page: Path) -> None:
    shown, _ = opened(browser, page)
    shots = shown.locator(".shot:not(.failed)")
    shots.nth(0).locator("select").select_option(label="none of these")
    shots.nth(1).locator("img").click()
    shown.keyboard.press("Escape")
    shown.keyboard.press("-")
    assert [row["label"] for row in exported(shown)] == [NONE_OF_THESE] * 2
    shown.close()


def test_a_batch_in_another_store_is_read_there(scores: Path, page: Path) -> None:
    away = UPath(f"memory://gallery/{scores.parent.parent.name}")
    for path in scores.iterdir():
        (away / path.name).write_bytes(path.read_bytes())
    batch = find_batch(str(away), UPath("/nowhere"))
    with database() as db:
        found = pick(db, readable(db, batch.scores.parts), 50)
    with database() as db:
        assert found.rows.equals(pick(db, [str(path) for path in sorted(scores.glob("*.parquet"))], 50).rows)


@pytest.mark.parametrize(("name", "beside"), [("out[1]", "out1"), ("out*", "out2"), ("out?", "out3"), ("o'x", "o")])
def test_a_folder_named_like_a_pattern_shows_its_own_rows(scores: Path, name: str, beside: str) -> None:
    """DuckDB takes stars and brackets for patterns of other names."""
    rows = pq.read_table(min(scores.glob("*.parquet")))
    for folder, marked in ((name, "own"), (beside, "foreign")):
        (scores.parent / folder).mkdir()
        uris = pa.array([f"{marked} {row}" for row in range(len(rows))])
        marked_rows = rows.set_column(rows.schema.get_field_index("uri"), "uri", uris)
        pq.write_table(marked_rows, scores.parent / folder / "a.parquet")
    with database() as db:
        shown = pick(db, [str(scores.parent / name / "a.parquet")], 5000).rows["uri"].to_pylist()
    assert shown
    assert {uri.split()[0] for uri in shown} == {"own"}


def test_the_command(store: Path, digits: Digits, tmp_path: Path) -> None:
    scores, _ = write_batch(store, digits, 30)
    done = CliRunner().invoke(app, ["gallery", "new", "-o", str(tmp_path / "a" / "g.html"), "--limit", "10"])
    assert done.exit_code == 0, done.exception
    assert "new: 10 of 30 files" in done.stdout
    assert "no heat maps: GRAYLINE_STORE: nothing is registered yet" in done.stdout
    assert (tmp_path / "a" / "g.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    for command, message in (
        (
            ["now"],
            r"BATCH: there is no folder now, and no such batch in \S+/scores\. Did you mean 'new'\? Known: new\.",
        ),
        ([str(tmp_path)], "does not hold a finished batch"),
        ([str(scores), "--limit", "0"], "--limit: 0 is not from 1 to 5,000"),
        ([str(scores), "--label", "33"], r"--label: '33' is not a class of digits version 1. Did you mean '3'\?"),
        ([str(scores), "-o", str(tmp_path)], "--output: .* is a folder"),
    ):
        wrong = CliRunner().invoke(app, ["gallery", *command])
        assert isinstance(wrong.exception, UserError), command
        assert re.search(message, str(wrong.exception)), wrong.exception
