"""From shards to a classifier: what it starts from, what it keeps aside, what it ends with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.model.resnet import ModelConfig
from resnet_core.shards import format as shards
from resnet_core.training.augment import AugmentConfig
from resnet_core.training.config import TrainConfig, warm_started
from resnet_core.training.distributed import World
from resnet_core.training.job import Job, kept_aside, network, run

CPU = torch.device("cpu")
CLASSES = tuple("0123456789")
CONFIG = TrainConfig(
    epochs=2,
    batch_size=64,
    optimizer="sgd",
    lr=0.1,
    weight_decay=5e-4,
    augment=AugmentConfig(flips="none", shift=0.125),
)

Digits = tuple[np.ndarray, list[str]]


def a_job(folder: Path, digits: Digits, train: int, validation: int = 0, config: TrainConfig = CONFIG) -> Job:
    """The first `train` digits to train on, the next `validation` to validate on, the rest to test."""
    preprocessing = Preprocessing(size=8)
    count = len(digits[0])
    splits = ["train"] * train + ["validation"] * validation + ["test"] * (count - train - validation)
    table = shards.make_table(
        pa.array([f"id{k}" for k in range(count)]), pa.array(digits[1]), pa.array(splits),
        pa.array(np.ones(count, np.float32)), digits[0], shards.metadata(CLASSES, preprocessing),
    )  # fmt: skip
    path = UPath(folder / "shard.parquet")
    with path.open("wb") as file:
        shards.write_table(table, file, None)
    return Job((path,), CLASSES, preprocessing, train, validation, ModelConfig("resnet10", width=16), config)


def held_out_accuracy(job: Job, classifier: object) -> float:
    images = shards.read(job.files, "test", CLASSES)
    found = classifier.probabilities(images.pixels).argmax(1)  # type: ignore[attr-defined]
    return float((found == images.labels).mean())


def test_images_kept_aside_are_validated_on_and_not_learned(tmp_path: Path, digits: Digits) -> None:
    job = a_job(tmp_path, digits, 300)
    aside = np.arange(300) % 3 == 0
    job = replace(job, held_out=aside)
    assert [str(name) for images in kept_aside(job) for name in images.image_ids] == [
        f"id{k}" for k in range(0, 300, 3)
    ]
    classifier, epochs = run(job, World(CPU))
    images = shards.read(job.files, "train", CLASSES)
    found = classifier.probabilities(images.pixels[aside]).argmax(1) == images.labels[aside]
    assert epochs[-1].validation_accuracy == pytest.approx(found.mean())


def test_streamed_and_resident_images_give_a_classifier_each(tmp_path: Path, digits: Digits) -> None:
    job = a_job(tmp_path, digits, 300, validation=100, config=replace(CONFIG, epochs=4, batch_size=16))
    for resident_bytes in (2**30, 1):
        _, epochs = run(replace(job, resident_bytes=resident_bytes), World(CPU))
        assert epochs[-1].accuracy > 0.5
        assert epochs[-1].validation_accuracy is not None


def test_early_stopping_wants_images_to_judge_by(tmp_path: Path, digits: Digits) -> None:
    job = a_job(tmp_path, digits, 200, config=replace(CONFIG, early_stopping=1))
    with pytest.raises(UserError, match=r"split\.validation"):
        run(job, World(CPU))


def test_a_start_is_taken_as_far_as_it_fits(tmp_path: Path, digits: Digits, caplog: pytest.LogCaptureFixture) -> None:
    job = a_job(tmp_path, digits, 300)
    first, _ = run(job, World(CPU))
    first.save(tmp_path / "first")
    start = replace(job, start=UPath(tmp_path / "first"))
    for name, value in network(start).state_dict().items():
        assert torch.equal(value, first.network.state_dict()[name]), name
    with caplog.at_level("INFO", logger="grayline"):
        other = network(replace(start, classes=(*CLASSES[:9], "nine"))).state_dict()
    assert "fc.weight" in caplog.text  # other classes: the last layer is fresh
    assert torch.equal(other["conv1.weight"], first.network.state_dict()["conv1.weight"])
    assert not torch.equal(other["fc.weight"], first.network.state_dict()["fc.weight"])


def test_a_warm_start_is_as_good_as_the_champion_in_half_the_epochs(tmp_path: Path, digits: Digits) -> None:
    """When 5% of the images are new. From scratch, half the epochs are not enough."""
    whole = replace(CONFIG, epochs=8)
    yesterday = a_job(tmp_path, digits, 1140, config=whole)
    champion, _ = run(yesterday, World(CPU))
    champion.save(tmp_path / "champion")
    (tmp_path / "today").mkdir()
    today = a_job(tmp_path / "today", digits, 1200, config=warm_started(whole))
    warm, epochs = run(replace(today, start=UPath(tmp_path / "champion")), World(CPU))
    assert len(epochs) == 4
    wanted = held_out_accuracy(today, champion)
    assert held_out_accuracy(today, warm) >= wanted
    cold, _ = run(replace(today, config=replace(whole, epochs=4)), World(CPU))
    assert held_out_accuracy(today, cold) < wanted
