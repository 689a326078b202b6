"""From scoring back to training: a person corrects labels in the page, and the next night learns from them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from flows.classify_batch import classify_batch
from flows.cli.app import app
from flows.nightly_retrain import nightly_retrain
from tests.browser import chromium, opened
from tests.conftest import write_folder

pytestmark = pytest.mark.usefixtures("prefect")

Digits = tuple[np.ndarray, list[str]]
WRONG = 20


def test_twenty_labels_corrected_in_the_page_are_in_the_next_nights_catalog(
    store: Path, tmp_path: Path, digits: Digits
) -> None:
    truth = {}
    for path in write_folder(tmp_path / "more", digits, range(10), 200, start=400).rglob("*.png"):
        (tmp_path / "new").mkdir(exist_ok=True)
        truth[str(shutil.move(path, tmp_path / "new" / path.name))] = path.parent.name
    corrections = tmp_path / "corrections"
    corrections.mkdir()
    content = {
        "name": "few",
        "source": str(write_folder(tmp_path / "raw", digits, range(10), 200)),
        "corrections": str(corrections),
        "image": {"size": 8},
        "model": {"arch": "resnet10", "width": 16},
        "train": {"epochs": 3, "batch_size": 32, "augment": {"flips": "none"}},
        "gate": {"minimum": 0.0, "promote": "better", "confidence": 0.5},
    }
    file = tmp_path / "few.yaml"
    file.write_text(yaml.safe_dump(content))
    before = nightly_retrain(str(file))
    assert before.version is not None
    assert before.catalog.ok == 200
    scores = classify_batch(str(tmp_path / "new"), str(tmp_path / "scores" / "new"), f"few/{before.version.version}")
    rows = pd.read_parquet(tmp_path / "scores" / "new").set_index("uri")
    wrong = [uri for uri in rows.index if rows.loc[uri, "label"] != truth[uri]]
    chosen = [*wrong, *(uri for uri in rows.index if uri not in wrong)][:WRONG]

    page = tmp_path / "gallery.html"
    done = CliRunner().invoke(app, ["gallery", str(scores.output), "-o", str(page)])
    assert done.exit_code == 0, done.exception
    with chromium() as browser:
        shown, said = opened(browser, page)
        odd = next(uri for uri in rows.index if uri not in chosen)
        shown.locator(f"[title='{odd}']").locator("xpath=..").locator("select").select_option(label="none of these")
        for uri in chosen:
            shot = shown.locator(f"[title='{uri}']").locator("xpath=..")
            shot.locator("select").select_option(truth[uri])
        with shown.expect_download() as download:
            shown.click("#export")
        shutil.copy(download.value.path(), corrections / download.value.suggested_filename)
        assert said == []

    after = nightly_retrain(str(file))
    assert after.catalog.ok == 200 + WRONG
    assert after.version is not None
    assert after.version.version != before.version.version
    catalog = pd.read_parquet(after.catalog.path.path).set_index("uri")
    corrected = catalog.loc[chosen]
    assert corrected["label"].tolist() == [truth[uri] for uri in chosen]
    assert set(corrected["split"]) == {"train"}
    for uri, text in corrected["attributes"].items():
        said_of = json.loads(text)
        assert said_of["source"] == f"gallery new by few version {before.version.version}"
        assert said_of["predicted"] == rows.loc[uri, "label"]
    assert catalog.loc[odd, ["status", "reason_code"]].tolist() == ["unlabelled", "label_missing"]
    assert pd.isna(catalog.loc[odd, "split"])
    assert "of no class" in catalog.loc[odd, "reason"]
    assert catalog.drop(index=[*chosen, odd])["attributes"].isna().all()
    assert after.shard_set is not None
    assert after.shard_set.train == before.shard_set.train + WRONG  # type: ignore[union-attr]


def test_a_queue_labelled_by_keys_is_in_the_next_nights_catalog_with_its_source(
    store: Path, tmp_path: Path, digits: Digits
) -> None:
    truth = {}
    for path in write_folder(tmp_path / "more", digits, range(10), 60, start=400).rglob("*.png"):
        (tmp_path / "new").mkdir(exist_ok=True)
        truth[str(shutil.move(path, tmp_path / "new" / path.name))] = path.parent.name
    content = {
        "name": "few",
        "source": str(write_folder(tmp_path / "raw", digits, range(10), 150)),
        "corrections": str(tmp_path / "corrections"),
        "image": {"size": 8},
        "model": {"arch": "resnet10", "width": 16},
        "train": {"epochs": 1, "batch_size": 32, "augment": {"flips": "none"}},
        "gate": {"minimum": 0.0},
    }
    (tmp_path / "corrections").mkdir()
    file = tmp_path / "few.yaml"
    file.write_text(yaml.safe_dump(content))
    version = nightly_retrain(str(file)).version
    assert version is not None
    scores = tmp_path / "scores" / "new"
    classify_batch(str(tmp_path / "new"), str(scores), f"few/{version.version}", embeddings=True)
    monday = tmp_path / "corrections" / "monday"  # what nobody has labelled there does no harm
    done = CliRunner().invoke(app, ["review", str(scores), "--budget", "20", "--to", str(monday)])
    assert done.exit_code == 0, done.exception
    assert "the rows have no embeddings" not in done.output
    with chromium() as browser:
        shown, said = opened(browser, monday / "queue.html")
        uris = [shot.get_attribute("title") for shot in shown.locator(".shot .file").all()]
        shown.locator(".shot").first.focus()
        for uri in uris:
            shown.keyboard.press("-" if uri == uris[0] else truth[uri])
        with shown.expect_download() as download:
            shown.click("#export")
        shutil.copy(download.value.path(), tmp_path / "corrections" / "labels.csv")
        assert said == []
    done = CliRunner().invoke(app, ["review", str(monday), "--labels", str(tmp_path / "corrections" / "labels.csv")])
    assert "accuracy of few version 1: " in done.output
    catalog = pd.read_parquet(nightly_retrain(str(file)).catalog.path.path).set_index("uri")
    rows = catalog.loc[uris]
    assert rows["label"].tolist()[1:] == [truth[uri] for uri in uris[1:]]
    assert rows["status"].tolist() == ["unlabelled", *["ok"] * 19]
    assert set(rows["split"][1:]) == {"train"}
    assert {json.loads(text)["source"] for text in rows["attributes"][1:]} == {"review monday by few version 1"}
    again = CliRunner().invoke(app, ["review", str(scores), "--budget", "20", "--to", str(tmp_path / "tuesday")])
    assert "19 images have a label in the catalog" in again.output
