"""The training loop: it learns, it resumes to the same weights, and its pieces do what they say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from upath import UPath

from resnet_core.errors import TrainingError
from resnet_core.model.inputs import Normalisation, to_input
from resnet_core.model.resnet import ModelConfig, build
from resnet_core.shards.format import Images
from resnet_core.training import _learner as learner
from resnet_core.training.augment import AugmentConfig
from resnet_core.training.batches import Resident
from resnet_core.training.config import TrainConfig
from resnet_core.training.distributed import World
from resnet_core.training.loop import Epoch, Hooks, TrainingSet, fit

CPU = torch.device("cpu")
CONFIG = TrainConfig(
    epochs=3, batch_size=64, optimizer="sgd", lr=0.1, weight_decay=5e-4, augment=AugmentConfig(flips="none", shift=0.1)
)
MOMENTS = Normalisation(0.3, 0.35)
LR = {"sgd": 0.1, "adamw": 1e-2, "muon": 1e-2}

Digits = tuple[np.ndarray, list[str]]


def some_digits(digits: Digits, rows: slice) -> Resident:
    labels = np.array([int(label) for label in digits[1]])[rows]
    names = np.array([f"image {k}" for k in range(len(labels))], dtype=object)
    return Resident.of(Images(names, labels, np.ones(len(labels), np.float32), digits[0][rows]), CPU)


def train(
    data: Resident,
    config: TrainConfig,
    model: nn.Module | None = None,
    classes: int = 10,
    include: np.ndarray | None = None,
    state: UPath | None = None,
    **hooks: object,
) -> tuple[nn.Module, list[Epoch]]:
    """On the device of the data."""
    return fit(
        model or build(ModelConfig("resnet10", width=16), size=8, classes=classes, seed=config.seed),
        TrainingSet(data, torch.bincount(data.hard_labels, minlength=classes).cpu(), MOMENTS, include),
        config,
        World(data.pixels.device),
        state=state,
        hooks=Hooks(**hooks),  # type: ignore[arg-type]
    )


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_it_learns_digits(digits: Digits, optimizer: str) -> None:
    config = replace(CONFIG, epochs=8, optimizer=optimizer, lr=LR[optimizer])  # type: ignore[arg-type]
    model, epochs = train(some_digits(digits, slice(0, 1200)), config)
    held_out = some_digits(digits, slice(1200, None))
    with torch.inference_mode():
        found = model(to_input(held_out.pixels, MOMENTS)).argmax(1)
    assert (found == held_out.hard_labels).float().mean() > 0.9
    assert epochs[-1].loss < epochs[0].loss


class KilledError(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_a_killed_training_ends_with_the_weights_of_one_that_was_not(
    digits: Digits, tmp_path: Path, optimizer: str
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
    assert_same(expected.state_dict(), resumed.state_dict())


def test_the_same_seed_gives_the_same_weights_and_another_other_ones(digits: Digits) -> None:
    data = some_digits(digits, slice(0, 200))
    first, again, other = (train(data, replace(CONFIG, epochs=1, seed=s))[0].fc.weight for s in (0, 0, 1))
    assert torch.equal(first, again)  # type: ignore[arg-type]
    assert not torch.equal(first, other)  # type: ignore[arg-type]


def test_memory_that_stays_in_the_process_changes_no_bit(digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    data = some_digits(digits, slice(0, 200))
    stayed, _ = train(data, CONFIG)
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    given_back, _ = train(data, CONFIG)
    assert_same(stayed.state_dict(), given_back.state_dict())


def test_steps_count_every_image_and_validation_is_asked_once_an_epoch(digits: Digits) -> None:
    steps, asked = [], []

    def validate(model: nn.Module) -> float:
        asked.append(model.training)
        return 0.5

    _, epochs = train(some_digits(digits, slice(0, 130)), CONFIG, on_step=steps.append, validate=validate)
    assert [step.images for step in steps if step.epoch == 1] == [44, 87, 130]
    assert len(asked) == len(epochs) == 3
    assert epochs[0].validation_accuracy == 0.5


@pytest.mark.parametrize(("count", "epochs", "batch_size"), [(5, 1, 64), (100, 1, 64), (160, 1, 32), (3, 2, 2)])
def test_the_shortest_trainings_work(digits: Digits, count: int, epochs: int, batch_size: int) -> None:
    config = replace(CONFIG, epochs=epochs, batch_size=batch_size)
    assert len(train(some_digits(digits, slice(0, count)), config)[1]) == epochs


def test_without_an_average_the_last_weights_are_kept(digits: Digits) -> None:
    data = some_digits(digits, slice(0, 200))
    plain, averaged = (train(data, replace(CONFIG, ema_decay=d))[0].fc.weight for d in (0.0, 0.98))
    assert not torch.equal(plain, averaged)  # type: ignore[arg-type]


def test_the_averaged_network_normalises_by_the_latest_statistics(digits: Digits) -> None:
    """Averages of averages are those of weights that are no more."""
    model = build(ModelConfig("resnet10", width=16), size=8, classes=10)
    averaged, _ = train(some_digits(digits, slice(0, 200)), CONFIG, model)
    for (name, own), latest in zip(averaged.named_buffers(), model.buffers(), strict=True):
        assert torch.equal(own, latest), name
    assert not torch.equal(averaged.fc.weight, model.fc.weight)  # type: ignore[arg-type]


def test_a_short_training_forgets_its_random_start(digits: Digits) -> None:
    """A fixed decay of 0.99 would leave four fifths of it after 22 steps."""
    data = some_digits(digits, slice(0, 176))
    config = replace(CONFIG, epochs=2, batch_size=16, ema_decay=0.99)
    start = build(ModelConfig("resnet10", width=16), size=8, classes=10, seed=config.seed).fc.weight
    last, averaged = (train(data, replace(config, ema_decay=d))[0].fc.weight for d in (0.0, 0.99))
    assert torch.dist(averaged, last) < 0.5 * torch.dist(averaged, start)  # type: ignore[arg-type]


def test_adjusted_logits_take_the_classes_shares_out_of_what_is_learned(digits: Digits) -> None:
    """Labels that have nothing to do with the images: one in ten is a 1."""
    data = some_digits(digits, slice(0, 400))
    data = replace(data, hard_labels=(torch.arange(400) % 10 == 0).long())
    found = {}
    for strength in (0.0, 1.0):
        config = replace(CONFIG, epochs=4, logit_adjustment=strength)
        model, _ = train(data, config, build(ModelConfig("resnet10", width=16), size=8, classes=2), classes=2)
        with torch.inference_mode():
            found[strength] = float(model(to_input(data.pixels, MOMENTS)).softmax(1)[:, 1].mean())
    assert found[0.0] < 0.25
    assert 0.4 < found[1.0] < 0.6


def test_early_stopping_ends_and_keeps_the_best_epoch(digits: Digits, tmp_path: Path) -> None:
    data, seen = some_digits(digits, slice(0, 200)), []
    accuracies = iter([0.2, 0.6, 0.5, 0.4, 0.9])

    def validate(model: nn.Module) -> float:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(accuracies)

    config = replace(CONFIG, epochs=5, early_stopping=2)
    state = UPath(tmp_path / "state.safetensors")
    model, epochs = train(data, config, validate=validate, state=state)
    assert [epoch.validation_accuracy for epoch in epochs] == [0.2, 0.6, 0.5, 0.4]
    assert_same(model.state_dict(), seen[1])
    again, _ = train(data, config, validate=validate, state=state)  # from the checkpoint, nothing left to do
    assert_same(again.state_dict(), seen[1])


def test_a_loss_that_is_no_number_names_the_images_of_its_batch(digits: Digits) -> None:
    data = some_digits(digits, slice(0, 128))
    spoiled = replace(data, weights=torch.where(torch.arange(128) == 77, torch.nan, 1.0))
    with pytest.raises(TrainingError) as error:
        train(spoiled, CONFIG)
    assert "epoch 1" in str(error.value)
    named = str(error.value).split("images ")[1].split(".")[0].split(", ")
    assert "image 77" in named
    assert len(named) == 64


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 1e3), ("muon", 1e20), ("adamw", 1e30)])
def test_a_rate_that_spoils_weights_or_answers_stops_at_the_last_good_checkpoint(
    digits: Digits, tmp_path: Path, optimizer: str, lr: float
) -> None:
    """Every loss of so few steps may be a number."""
    state = UPath(tmp_path / "state.safetensors")
    data, config = some_digits(digits, slice(0, 18)), replace(CONFIG, epochs=1, batch_size=8, optimizer="muon", lr=0.01)
    train(data, config, state=state)
    kept = state.read_bytes()
    spoiled = replace(config, epochs=3, optimizer=optimizer, lr=lr)  # type: ignore[arg-type]
    with pytest.raises(TrainingError) as error:
        train(data, spoiled, state=UPath(tmp_path / "other.safetensors"))
    assert f"`train.lr`, now {lr:g}," in str(error.value)
    assert state.read_bytes() == kept
    assert not (tmp_path / "other.safetensors").exists()


@pytest.mark.parametrize("torn", ["cut", "empty", "text", "one byte"])
def test_a_torn_checkpoint_is_not_there_and_a_line_says_so(
    digits: Digits, tmp_path: Path, torn: str, caplog: pytest.LogCaptureFixture
) -> None:
    state, data = UPath(tmp_path / "state.safetensors"), some_digits(digits, slice(0, 64))
    config = replace(CONFIG, epochs=1, batch_size=32)
    model, _ = train(data, config, state=state)
    content = bytearray(state.read_bytes())
    content[-1000] ^= 1
    spoiled = {"cut": content[: len(content) // 2], "empty": b"", "text": b"no tensors here", "one byte": content}
    state.write_bytes(bytes(spoiled[torn]))
    again, _ = train(data, config, state=state)
    assert_same(model.state_dict(), again.state_dict())
    assert [record.getMessage() for record in caplog.records if f"the checkpoint {state} is damaged" in record.message]


class SmallMemory(nn.Module):
    """A network on a device that has room for `images` images at a time."""

    def __init__(self, model: nn.Module, images: int) -> None:
        super().__init__()
        self.model, self.images = model, images
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            if len(x) > self.images:
                raise torch.OutOfMemoryError("no room")
            self.seen.append(len(x))
        return self.model(x)


def test_a_batch_that_does_not_fit_into_memory_goes_through_in_pieces(
    digits: Digits, caplog: pytest.LogCaptureFixture
) -> None:
    data = some_digits(digits, slice(0, 128))
    model = SmallMemory(build(ModelConfig("resnet10", width=16), size=8, classes=10), 20)
    with caplog.at_level("WARNING", logger="grayline"):
        _, epochs = train(data, CONFIG, model=model)
    assert len(epochs) == 3
    assert model.seen == [16] * (3 * 2 * 4)  # 64 as 4 x 16, every batch of every epoch
    assert "4 pieces" in caplog.text
    hopeless = SmallMemory(model.model, 1)
    with pytest.raises(torch.OutOfMemoryError):
        train(data, CONFIG, model=hopeless)


def test_gradients_in_pieces_are_those_of_the_whole_batch(digits: Digits) -> None:
    data = some_digits(digits, slice(0, 60))
    gradients = []
    for pieces in (1, 3):
        model = build(ModelConfig("resnet10", width=16), size=8, classes=10).eval()  # batch norm looks at no batch
        exact = replace(CONFIG, precision="float32")
        training = learner.start(model, 9, exact, torch.ones(10), World(CPU))
        training.pieces = pieces
        x = to_input(data.pixels, MOMENTS)
        targets = F.one_hot(data.hard_labels, 10).float()
        sums = training.gradients(x, targets, torch.linspace(0, 1 / 30, 60), data.hard_labels)
        gradients.append([p.grad for p in model.parameters()] + [sums])
    for whole, pieced in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, pieced, rtol=1e-4, atol=1e-5)


def test_clipping_bounds_the_step(digits: Digits) -> None:
    data = some_digits(digits, slice(0, 64))
    before = build(ModelConfig("resnet10", width=16), size=8, classes=10).state_dict()
    config = replace(CONFIG, epochs=1, ema_decay=0.0, weight_decay=0.0, momentum=0.0, clip_gradients=1e-3)
    after, _ = train(data, config)
    names = dict(after.named_parameters())
    moved = torch.cat([(after.state_dict()[name] - before[name]).flatten() for name in names]).norm()
    assert 0 < moved <= 1e-3 * config.lr * 1.001


def test_images_left_out_are_not_trained_on(digits: Digits) -> None:
    data = some_digits(digits, slice(0, 128))
    noise = torch.randint(0, 256, data.pixels.shape, dtype=torch.uint8)
    include = np.arange(128) < 100
    other = replace(data, pixels=torch.where(torch.from_numpy(include)[:, None, None], data.pixels, noise))
    first, second = (train(d, CONFIG, include=include)[0].state_dict() for d in (data, other))
    assert_same(first, second)


def test_training_at_several_sizes_sees_them_all_and_ends_at_the_whole_one(digits: Digits) -> None:
    seen: list[int] = []

    class Watched(SmallMemory):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.shape[-1])
            return super().forward(x)

    data = some_digits(digits, slice(0, 256))
    net = build(ModelConfig("resnet10", width=16), size=8, classes=10)
    train(data, replace(CONFIG, scales=(8, 16, 24)), model=Watched(net, 999))
    assert set(seen) == {8, 16, 24}
    seen.clear()
    big = replace(data, pixels=data.pixels.repeat_interleave(4, 1).repeat_interleave(4, 2))
    train(big, replace(CONFIG, epochs=6, progressive=0.5), model=Watched(net, 999))
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (16, 32)


def test_soft_labels_pull_the_probabilities_to_their_shares(digits: Digits) -> None:
    """Two classes that nothing tells apart, with a share of 0.7: that is what the network comes to say."""
    data = some_digits(digits, slice(0, 256))
    soft = replace(data, hard_labels=data.hard_labels * 0, targets=torch.tensor([0.7, 0.3]).repeat(256, 1))
    config = replace(CONFIG, epochs=20, batch_size=32, label_smoothing=0.0)
    model, _ = train(soft, config, classes=2)
    with torch.inference_mode():
        found = model(to_input(data.pixels, MOMENTS)).softmax(1).mean(0)
    assert found[0] == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize("wanted", [False, True])
def test_deterministic_algorithms_are_on_in_a_training_that_wants_them_and_only_there(
    digits: Digits, wanted: bool
) -> None:
    seen: list[bool] = []

    class Watched(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.are_deterministic_algorithms_enabled())
            return self.inner(x)

    changes = AugmentConfig(flips="dihedral", shift=0.1, rotate=10, zoom=0.1, noise=0.02, erase=0.5, mixup=0.2)
    config = replace(CONFIG, epochs=1, deterministic=wanted, optimizer="muon", lr=0.01, augment=changes)
    net = Watched(build(ModelConfig("resnet10", width=16, head="multiscale"), size=8, classes=10))
    train(some_digits(digits, slice(0, 128)), config, model=net)
    assert set(seen) == {wanted}
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_training_on_a_gpu_resumes_to_the_same_bits(digits: Digits, tmp_path: Path) -> None:
    data = some_digits(digits, slice(0, 512))
    cuda = replace(data, **{name: getattr(data, name).cuda() for name in ("pixels", "hard_labels", "weights")})

    def network() -> nn.Module:
        return build(ModelConfig("resnet10", width=16), size=32, classes=10)

    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    config, state = replace(CONFIG, deterministic=True), UPath(tmp_path / "state.safetensors")
    whole, _ = train(cuda, config, network())
    with pytest.raises(KeyboardInterrupt):
        train(cuda, config, network(), state=state, on_epoch=stop)
    resumed, _ = train(cuda, config, network(), state=state)
    assert_same(whole.state_dict(), resumed.state_dict())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_it_learns_on_a_gpu(digits: Digits, compiled: bool) -> None:
    data = some_digits(digits, slice(0, 1200))
    cuda = replace(data, **{name: getattr(data, name).cuda() for name in ("pixels", "hard_labels", "weights")})
    _, epochs = train(cuda, replace(CONFIG, epochs=8, compile=compiled))
    assert epochs[-1].accuracy > 0.9
