"""What is `auto` is chosen once, printed, and kept until the images are others."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from upath import UPath

from tasks.dataset import Dataset
from tasks.defaults import settle as room
from tasks.defaults.settle import settle
from tasks.store import CATALOG_SIZE, Store
from tasks.training.run import learning_digest
from tasks.values import ShardSet
from tests.places import a_workspace
from tests.tasks.ingest.test_ingest import sharded


@pytest.fixture(autouse=True)
def _rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every device trains 100 images a second: the rate has its own test."""
    monkeypatch.setattr(room, "training_rate", lambda model, config, size, classes, device: 100.0)


def draw(folder: Path, counts: dict[str, int], side: int, start: int = 0) -> Path:
    rng = np.random.default_rng(start)
    for label, count in counts.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(start, start + count):
            pixels = rng.integers(0, 256, (side, side), np.uint8) // (1 if label == "ok" else 2)
            Image.fromarray(pixels).save(folder / label / f"{number:04}.png")
    return folder


def a_dataset(source: Path, **parts: Any) -> Dataset:
    return Dataset.model_validate({"name": "d", "source": str(source), **parts})


def settled(dataset: Dataset, store: UPath) -> tuple[Dataset, ShardSet]:
    shard_set = sharded(dataset, store)
    return settle(shard_set, dataset, a_workspace(store)), shard_set


def test_the_size_of_the_files_is_taken_and_kept_when_others_come(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "grayline")
    source, store = draw(tmp_path / "raw", {"ok": 30, "bad": 30}, 20), UPath(tmp_path / "store")
    first, shard_set = settled(a_dataset(source), store)
    assert first.image.size == shard_set.preprocessing.size == 20
    assert not first.auto
    assert "image size 20 px (the files' own, 20 px)" in caplog.text
    draw(source, {"ok": 90, "bad": 90}, 64, start=100)
    caplog.clear()
    assert settled(a_dataset(source), store)[1].preprocessing.size == 20
    # The catalog of tonight is written after the size: the night after says it.
    caplog.clear()
    assert settled(a_dataset(source), store)[1].preprocessing.size == 20
    assert "image size stays 20 px" in caplog.text
    assert "`image: {size: 64}` changes it" in caplog.text
    assert settled(a_dataset(source, image={"size": 32}), store)[1].preprocessing.size == 32


def test_a_catalog_of_an_earlier_release_keeps_its_96_pixels(tmp_path: Path) -> None:
    source, store = draw(tmp_path / "raw", {"ok": 20, "bad": 20}, 20), UPath(tmp_path / "store")
    sharded(a_dataset(source, image={"size": 96}), store)
    path = Store(store).catalog("d").path
    table = pq.read_table(path)
    notes = {key: text for key, text in table.schema.metadata.items() if key != CATALOG_SIZE.encode()}
    pq.write_table(table.replace_schema_metadata(notes), path)
    assert settled(a_dataset(source), store)[1].preprocessing.size == 96


def test_values_are_kept_until_the_images_are_half_as_many_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "grayline")
    source, store = draw(tmp_path / "raw", {"ok": 300, "bad": 40}, 12), UPath(tmp_path / "store")
    first, _ = settled(a_dataset(source), store)
    assert (first.train.sampling, first.train.logit_adjustment) == ("natural", 0.5)
    assert "width 16 (for 256 images)" in caplog.text
    assert "as chosen on" not in caplog.text
    draw(source, {"ok": 30, "bad": 4}, 12, start=400)
    caplog.clear()
    second, _ = settled(a_dataset(source), store)
    assert (second.model, second.train) == (first.model, first.train)
    assert "as chosen on" in caplog.text
    draw(source, {"ok": 10, "bad": 260}, 12, start=500)
    caplog.clear()
    third, _ = settled(a_dataset(source), store)
    assert third.train.logit_adjustment == 0
    assert "chosen again, for the images or the data set file have changed:" in caplog.text
    assert "train.logit_adjustment 0.5 to 0.0" in caplog.text


def test_a_resumed_training_has_the_name_that_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, store = draw(tmp_path / "raw", {"ok": 40, "bad": 40}, 12), UPath(tmp_path / "store")
    first, shard_set = settled(a_dataset(source, train={"minutes": 1}), store)
    monkeypatch.setattr(room, "training_rate", lambda model, config, size, classes, device: 7.0)  # busier now
    second = settle(shard_set, a_dataset(source, train={"minutes": 1}), a_workspace(store))
    assert learning_digest(shard_set, first) == learning_digest(shard_set, second)
    # 1 minute at 100 images/s is 6,000 images.
    assert first.train.epochs == 6000 // shard_set.train
    longer = settle(shard_set, a_dataset(source, train={"minutes": 2}), a_workspace(store))
    assert longer.train.epochs == 840 // shard_set.train
    with pytest.raises(AssertionError, match="settled"):
        learning_digest(shard_set, a_dataset(source))


def test_what_was_chosen_can_be_read_back_and_a_damaged_record_is_chosen_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, store = draw(tmp_path / "raw", {"ok": 40, "bad": 40}, 12), UPath(tmp_path / "store")
    first, shard_set = settled(a_dataset(source), store)
    path = tmp_path / "store" / "history" / "d" / "settings.json"
    record = json.loads(path.read_text())
    assert record["values"]["train.epochs"] == first.train.epochs
    assert record["values"].keys() == record["reasons"].keys()
    assert Dataset.recorded(json.loads(json.dumps(first.model_dump(mode="json")))).train == first.train
    for damage in ("{", "{}", "[]"):
        path.write_text(damage)
        caplog.clear()
        again = settle(shard_set, a_dataset(source), a_workspace(store))
        assert (again.train, again.model) == (first.train, first.model)
        assert "cannot be used" in caplog.text


def test_numbers_of_the_file_are_taken_as_they_are(tmp_path: Path) -> None:
    source, store = draw(tmp_path / "raw", {"ok": 40, "bad": 9}, 12), UPath(tmp_path / "store")
    train = {"epochs": 3, "batch_size": 9, "warmup": 0.3, "ema_decay": 0.5, "sampling": "natural"}
    train["logit_adjustment"] = 0.1
    augment = {"flips": "vertical", "shift": 0.2}
    own = a_dataset(source, image={"size": 16}, model={"width": 24}, train={**train, "augment": augment, "lr": 0.01})
    assert not own.auto
    found, _ = settled(own, store)
    assert (found.image, found.model, found.train) == (own.image, own.model, own.train)
    assert found.chosen == ""
    some, _ = settled(a_dataset(source, model={"width": 24}, train={"epochs": 3, "batch_size": "auto"}), store)
    assert (some.model.width, some.train.epochs) == (24, 3)
    assert some.train.batch_size < 128


def test_other_seeds_and_starts_have_the_same_values(tmp_path: Path) -> None:
    source, store = draw(tmp_path / "raw", {"ok": 40, "bad": 40}, 12), UPath(tmp_path / "store")
    first, shard_set = settled(a_dataset(source), store)
    other = settle(shard_set, a_dataset(source, train={"seed": 5, "start": "champion"}), a_workspace(store))
    assert replace(other.train, seed=0, start="scratch") == first.train
