"""Unknown images from the shards to the rows of a batch and its drift, by an untrained network, without Prefect."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from upath import UPath

from resnet_core.drift.unknown import Ranks, unknown_drift
from resnet_core.evaluation.novelty import measure_novelty
from resnet_core.images.preprocessing import resize
from resnet_core.model.classifier import Classifier
from resnet_core.shards import format as shards
from tasks.batch.drift import read_batch
from tasks.batch.finish import in_words
from tasks.batch.manifest import read_manifest
from tasks.evaluation.held_out import learn_novelty, score_split
from tasks.values import ShardSet
from tests.resnet_core.model.test_classifier import a_classifier
from tests.scoring import classify, use

Digits = tuple[np.ndarray, list[str]]
LEARNED, HELD_OUT = 600, 500


@pytest.fixture(scope="module")
def shard_set(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """600 digits to learn from, 500 held out, in the pixels of the classifier. A class is its digit modulo 3."""
    settings, count = a_classifier().preprocessing, LEARNED + HELD_OUT
    pixels = np.stack([resize(image, settings) for image in digits[0][:count]])
    names = ("a", "b", "ü/ ")
    table = shards.make_table(
        pa.array([f"{k:064x}" for k in range(count)]),
        pa.array([names[int(label) % 3] for label in digits[1][:count]]),
        pa.array(["train"] * LEARNED + ["test"] * HELD_OUT),
        pa.array(np.ones(count, np.float32)),
        pixels,
        shards.metadata(names, settings),
    )
    file = UPath(tmp_path_factory.mktemp("shards") / "0.parquet")
    with file.open("wb") as sink:
        shards.write_table(table, sink, None)
    return ShardSet("d", file.parent, (file,), "x", names, settings, LEARNED, 0, HELD_OUT, 1)


@pytest.fixture(scope="module")
def knowing(shard_set: ShardSet) -> Classifier:
    ours = learn_novelty(a_classifier(), shard_set, 0.05, None, lambda images: None)
    scored = score_split(ours, shard_set, "test", None, lambda images: None)
    assert ours.novelty is not None
    assert scored.distances is not None
    kept, flagged = measure_novelty(ours.novelty, scored.distances, None, None)
    assert len(kept.held_out) == HELD_OUT
    assert 0.02 < flagged.found.value < 0.09
    return replace(ours, novelty=kept)


def test_without_a_level_nothing_is_learned(shard_set: ShardSet) -> None:
    plain = learn_novelty(a_classifier(), shard_set, None, None, lambda images: None)
    assert plain.novelty is None
    assert score_split(plain, shard_set, "test", None, lambda images: None).distances is None


def test_foreign_images_of_a_batch_are_rows_counts_and_drift(
    knowing: Classifier, digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "new"
    source.mkdir()
    for k in range(1100, 1797):
        Image.fromarray(digits[0][k]).save(source / f"{k:05}.png")
    for k in range(30):
        pixels = np.random.default_rng(k).integers(0, 256, (16, 16)).astype(np.uint8)
        Image.fromarray(pixels).save(source / f"noise{k}.png")
    use(knowing, monkeypatch)
    scores = classify(source, tmp_path / "out")
    rows = pd.read_parquet(tmp_path / "out")
    foreign = rows["uri"].str.contains("noise")
    assert rows.loc[foreign, "unknown"].mean() >= 0.8
    assert rows.loc[~foreign, "unknown"].mean() < 0.1
    assert scores.unknown == rows["unknown"].sum()
    assert read_manifest(UPath(tmp_path / "out")).unknown == scores.unknown
    assert f"({scores.unknown} unknown)" in scores.headline()
    assert not any("unknown images are not told" in line for line in in_words(scores))

    assert knowing.novelty is not None
    ranks = Ranks(len(knowing.novelty.held_out), knowing.novelty.depth)
    read = read_batch(scores.parts, ranks)
    assert (read.unknown.images, read.unknown.unknown) == (len(rows), scores.unknown)
    assert unknown_drift(read.unknown, ranks, 0.01).drifted
    assert all("noise" in uri for uri, _ in read.ends.at("distance", "descending"))


def test_a_version_that_cannot_tell_says_so_in_a_line(
    digit_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(a_classifier(), monkeypatch)
    scores = classify(digit_folder, tmp_path / "out")
    assert scores.unknown is None
    assert any(
        "unknown images are not told: model version 3 keeps nothing to do so" in line for line in in_words(scores)
    )
    assert pd.read_parquet(tmp_path / "out")[["novelty", "unknown", "distance"]].isna().all(axis=None)
