"""The training loop: it learns, it resumes to the same weights, and its pieces do what they say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from upath import UPath

from resnet_core.augment import augment, flip, shift
from resnet_core.batches import Resident
from resnet_core.fit import Epoch, TrainConfig, class_weights, cross_entropy, fit, make_optimizer
from resnet_core.normalisation import Normalisation, to_input
from resnet_core.resnet import ModelConfig, build

CPU = torch.device("cpu")
CONFIG = TrainConfig(epochs=3, batch_size=64, flips="none", shift=0.1)


def some_digits(digits: tuple[np.ndarray, list[str]], rows: slice) -> Resident:
    labels = torch.tensor([int(label) for label in digits[1]])
    return Resident(torch.from_numpy(digits[0][rows]), labels[rows], torch.ones(len(labels[rows])))


def train(data: Resident, config: TrainConfig, **options: object) -> tuple[nn.Module, list[Epoch]]:
    return fit(
        build(ModelConfig("resnet10", width=16), size=8, classes=10, seed=config.seed),
        data,
        config,
        class_counts=torch.bincount(data.labels, minlength=10),
        normalisation=Normalisation(0.3, 0.35),
        device=CPU,
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_learns_digits(digits: tuple[np.ndarray, list[str]], optimizer: str) -> None:
    lr = 0.1 if optimizer == "sgd" else 1e-2
    config = replace(CONFIG, epochs=8, optimizer=optimizer, lr=lr)  # type: ignore[arg-type]
    model, epochs = train(some_digits(digits, slice(0, 1200)), config)
    held_out = some_digits(digits, slice(1200, None))
    with torch.inference_mode():
        found = model(to_input(held_out.pixels, Normalisation(0.3, 0.35))).argmax(1)
    assert (found == held_out.labels).float().mean() > 0.9
    assert epochs[-1].loss < epochs[0].loss


class KilledError(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_killed_training_ends_with_the_weights_of_one_that_was_not(
    digits: tuple[np.ndarray, list[str]], tmp_path: Path, optimizer: str
) -> None:
    data = some_digits(digits, slice(0, 300))
    config = replace(CONFIG, optimizer=optimizer, lr=0.01)  # type: ignore[arg-type]
    expected, whole = train(data, config)
    state = UPath(tmp_path / "state.safetensors")

    def kill(epoch: Epoch) -> None:
        if epoch.epoch < 3:
            raise KilledError

    for _ in range(2):
        with pytest.raises(KilledError):
            train(data, config, state=state, on_epoch=kill)
    resumed, epochs = train(data, config, state=state, on_epoch=kill)
    assert [e.loss for e in epochs] == [e.loss for e in whole]
    for name, value in expected.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_same_seed_gives_the_same_weights_and_another_other_ones(digits: tuple[np.ndarray, list[str]]) -> None:
    data = some_digits(digits, slice(0, 200))
    first, again, other = (train(data, replace(CONFIG, epochs=1, seed=s))[0].fc.weight for s in (0, 0, 1))
    assert torch.equal(first, again)  # type: ignore[arg-type]
    assert not torch.equal(first, other)  # type: ignore[arg-type]


def test_steps_count_every_image_and_validation_is_asked_once_an_epoch(digits: tuple[np.ndarray, list[str]]) -> None:
    steps, asked = [], []

    def validate(model: nn.Module) -> float:
        asked.append(model.training)
        return 0.5

    _, epochs = train(some_digits(digits, slice(0, 130)), CONFIG, on_step=steps.append, validate=validate)
    assert [step.images for step in steps if step.epoch == 1] == [44, 87, 130]
    assert len(asked) == len(epochs) == 3
    assert epochs[0].validation_accuracy == 0.5


@pytest.mark.parametrize(("count", "epochs", "batch_size"), [(5, 1, 64), (100, 1, 64), (160, 1, 32), (3, 2, 2)])
def test_the_shortest_trainings_work(
    digits: tuple[np.ndarray, list[str]], count: int, epochs: int, batch_size: int
) -> None:
    config = replace(CONFIG, epochs=epochs, batch_size=batch_size)
    assert len(train(some_digits(digits, slice(0, count)), config)[1]) == epochs


def test_without_an_average_the_last_weights_are_kept(digits: tuple[np.ndarray, list[str]]) -> None:
    data = some_digits(digits, slice(0, 200))
    plain, averaged = (train(data, replace(CONFIG, ema_decay=d))[0].fc.weight for d in (0.0, 0.98))
    assert not torch.equal(plain, averaged)  # type: ignore[arg-type]


def test_cross_entropy_is_torchs_and_weights_weigh() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    ones = torch.ones(6)
    weights = torch.tensor([1.0, 2.0, 0.5])
    torch.testing.assert_close(
        cross_entropy(logits, labels, ones, weights, 0.0), F.cross_entropy(logits, labels, weight=weights)
    )
    only_two = torch.tensor([1.0, 1.0, 0, 0, 0, 0])
    torch.testing.assert_close(
        cross_entropy(logits, labels, only_two, torch.ones(3), 0.1),
        F.cross_entropy(logits[:2], labels[:2], label_smoothing=0.1),
    )


def test_balanced_class_weights_give_every_class_the_same_say() -> None:
    counts = torch.tensor([10, 30, 60])
    weights = class_weights(counts, TrainConfig(class_weights="balanced"))
    shares = counts * weights
    assert shares == pytest.approx([100 / 3] * 3)
    assert class_weights(counts, TrainConfig()).tolist() == [1, 1, 1]


def test_weight_decay_spares_biases_and_batch_norm() -> None:
    model = build(ModelConfig("resnet10", width=16), size=8, classes=2)
    decayed, spared = make_optimizer(model, TrainConfig()).param_groups
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in spared["params"])
    assert spared["weight_decay"] == 0
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


def test_flips_are_the_mirror_images_that_are_allowed() -> None:
    image = torch.arange(9, dtype=torch.uint8).view(1, 3, 3)
    generator = torch.Generator().manual_seed(0)
    eight = {
        tuple(turned.flatten().tolist())
        for k in range(4)
        for turned in (image.rot90(k, (1, 2)), image.rot90(k, (1, 2)).flip(2))
    }
    expected = {"none": 1, "horizontal": 2, "vertical": 2, "both": 4, "dihedral": 8}
    for flips, count in expected.items():
        seen = {tuple(x.flatten().tolist()) for x in flip(image.repeat(200, 1, 1), flips, generator)}  # type: ignore[arg-type]
        assert len(seen) == count
        assert seen <= eight


def test_shifts_move_whole_images_by_at_most_so_many_pixels() -> None:
    image = torch.zeros(1, 9, 9, dtype=torch.uint8)
    image[0, 4, 4] = 255
    moved = shift(image.repeat(300, 1, 1), 2, torch.Generator().manual_seed(0))
    places = {tuple(spot.nonzero()[0].tolist()) for spot in moved}
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}
    assert (moved.flatten(1).sum(1) == 255).all()


def test_augmentation_depends_on_the_generator_alone(digits: tuple[np.ndarray, list[str]]) -> None:
    x = torch.from_numpy(digits[0][:50])
    first, again = (augment(x, "both", 0.2, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == x.shape
    assert first.dtype == torch.uint8
    assert not torch.equal(first, x)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_it_learns_on_a_gpu(digits: tuple[np.ndarray, list[str]]) -> None:
    data = some_digits(digits, slice(0, 1200))
    cuda = Resident(*(t.cuda() for t in (data.pixels, data.labels, data.weights)))
    _, epochs = fit(
        build(ModelConfig("resnet10", width=16), size=8, classes=10),
        cuda,
        replace(CONFIG, epochs=8),
        class_counts=torch.bincount(data.labels, minlength=10),
        normalisation=Normalisation(0.3, 0.35),
        device=torch.device("cuda"),
    )
    assert epochs[-1].accuracy > 0.9
