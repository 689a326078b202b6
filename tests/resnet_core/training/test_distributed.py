"""Processes that share each batch end with what one process does, and go on from each other's checkpoints."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from upath import UPath

from resnet_core.model.inputs import Normalisation
from resnet_core.model.resnet import ModelConfig, build
from resnet_core.model.sized import sized
from resnet_core.training.augment import AugmentConfig
from resnet_core.training.batches import Resident
from resnet_core.training.config import TrainConfig
from resnet_core.training.distributed import World, joined
from resnet_core.training.loop import Epoch, Hooks, TrainingSet, fit

CPU = torch.device("cpu")
ALONE = World(CPU)
# 301 images: batches of 50 and 51, which two processes cannot halve.
IMAGES = 301
CONFIG = TrainConfig(
    epochs=2,
    batch_size=51,
    optimizer="sgd",
    lr=0.05,
    class_weights="balanced",
    ema_decay=0,
    scales=(8, 12),
    augment=AugmentConfig(shift=0.1, mixup=0.2),
)
ADAMW = replace(CONFIG, optimizer="adamw", lr=0.002, scales=())
SIZE = 2


class StoppedError(Exception):
    pass


class InDouble(nn.Module):
    """In float32, a ReLU's input within rounding of zero takes the two trainings apart now and then."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.double())


def train(config: TrainConfig, world: World, state: Path | None = None, stop: int = 0) -> dict[str, Tensor]:
    """The weights after training on digits of unequal weights; `stop`: after that many epochs."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = torch.from_numpy(np.rint(found.images[:IMAGES] * (255 / 16)).astype(np.uint8))
    labels = torch.from_numpy(found.target[:IMAGES].astype(np.int64))
    weights = 0.5 + torch.arange(IMAGES) % 3 / 2
    epochs: list[Epoch] = []

    def on_epoch(epoch: Epoch) -> None:
        epochs.append(epoch)
        if epoch.epoch == stop:
            raise StoppedError

    model = InDouble(
        sized(build(ModelConfig("resnet10", width=16, head="multiscale"), size=8, classes=10), config.scales)
    )
    batches = Resident(pixels, labels, weights, ids=[str(row) for row in range(IMAGES)])
    names = list(model.state_dict())
    try:
        fit(
            model,
            TrainingSet(batches, torch.bincount(labels, minlength=10), Normalisation(0.3, 0.35)),
            config,
            world,
            state=UPath(state) if state else None,
            hooks=Hooks(on_epoch=on_epoch),
        )
    except StoppedError:
        assert stop
    assert list(model.state_dict()) == names
    of_epochs = {f"epoch.{e.epoch}": torch.tensor([e.loss, e.accuracy]) for e in epochs}
    return {name: value.float() for name, value in model.state_dict().items()} | of_epochs


def normalise(world: World) -> dict[str, Tensor]:
    """Batch norm of five images, of which the first of two processes has three, and its gradients."""
    generator = torch.Generator().manual_seed(1)
    x, target = (torch.randn(5, 4, 3, 3, generator=generator) * 3 + 1 for _ in range(2))
    norm = nn.BatchNorm2d(4)
    nn.init.uniform_(norm.weight, generator=generator)
    x = world.share(x).contiguous(memory_format=torch.channels_last).requires_grad_()
    wrapped = world.wrap(nn.Sequential(norm))
    y = wrapped(x)
    (y * world.share(target)).sum().mul(world.size).backward()
    assert x.grad is not None
    return {
        "mean": norm.running_mean,
        "var": norm.running_var,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        "y": world.total(spread(world, y)),
        "x": world.total(spread(world, x.grad)) / world.size,
    }  # type: ignore[dict-item]


def spread(world: World, rows: Tensor) -> Tensor:
    """This process's rows where they belong in the whole batch."""
    whole = torch.zeros(5, *rows.shape[1:])
    whole[world.rank :: world.size] = rows.detach()
    return whole


def both(rank: int, folder: Path) -> None:
    """What one of two processes does."""
    world = World(CPU, rank, SIZE)
    torch.set_num_threads(1)
    with joined(world, folder / "meeting"):
        found = {
            "norm": normalise(world),
            "sgd": train(CONFIG, world, folder / "from_two.safetensors", stop=1),
            "adamw": train(ADAMW, world, folder / "from_one.safetensors"),
        }
        assert world.agreed(float(rank)) == 0
    for name, values in found.items():
        save_file({key: value.contiguous() for key, value in values.items()}, folder / f"{name}.{rank}.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each of two processes has found, in files."""
    found = tmp_path_factory.mktemp("two")
    train(ADAMW, ALONE, found / "from_one.safetensors", stop=1)
    mp.spawn(both, (found,), nprocs=SIZE)
    return found


def of(folder: Path, name: str) -> list[dict[str, Tensor]]:
    return [load_file(folder / f"{name}.{rank}.safetensors") for rank in range(SIZE)]


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], most: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=most, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def test_batch_norm_sees_the_images_of_all_processes(folder: Path) -> None:
    for found in of(folder, "norm"):
        assert_close(found, normalise(ALONE))


def test_two_processes_end_with_the_weights_of_one(folder: Path) -> None:
    first, second = of(folder, "sgd")
    assert_close(first, train(CONFIG, ALONE, stop=1))
    assert_close(second, first, 0)


def test_two_processes_go_on_from_a_checkpoint_of_one_and_the_other_way_round(folder: Path) -> None:
    assert_close(of(folder, "adamw")[0], last_epoch(train(ADAMW, ALONE)))
    resumed = train(CONFIG, ALONE, folder / "from_two.safetensors")
    assert_close(resumed, last_epoch(train(CONFIG, ALONE)))


def last_epoch(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in found.items() if name != "epoch.1"}


def test_alone_nothing_is_wrapped_or_copied() -> None:
    model, batch = nn.BatchNorm2d(3), torch.randn(4, 3, 2, 2)
    assert ALONE.wrap(model) is model
    assert ALONE.share(batch) is batch
    assert ALONE.total(batch) is batch
