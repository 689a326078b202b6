"""Pre-training without labels: `python -m benchmarks self_supervised`, by itself.

ELPV's training cells at 96 pixels, three trainings per seed, evaluated on the held-out cells:

- `scratch`: EPOCHS epochs of the data set file's recipe;
- `pre-trained`: the same, from weights of VICReg on the same cells without their labels (Bardes, Ponce & LeCun 2021,
  arXiv:2105.04906): two views of a cell get similar features, and the features vary and are uncorrelated;
- `longer`: from scratch, with as many epochs as fit into the seconds of `pre-trained`, pre-training included.
  Pre-training has to beat this one.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from upath import UPath

from benchmarks.nights import place, preprocess, write_sample
from benchmarks.rounds import Comparison, Measure, Result, Track
from benchmarks.trainings import RESIDENT_BYTES, Test, held_out, kept, percents, seconds, train
from resnet_core.device import describe, find_device
from resnet_core.evaluation.metrics import METRICS
from resnet_core.model import resnet
from resnet_core.model.inputs import Normalisation, to_input
from resnet_core.model.resnet import ResNet
from resnet_core.shards import format as shards
from resnet_core.storage.digest import source_digest
from resnet_core.training.augment import AugmentConfig, augment
from resnet_core.training.batches import Resident
from resnet_core.training.job import Job
from tasks.training.run import job_of

SIZE = 96
EPOCHS = 40
SEEDS = 2
ARMS = ("scratch", "pre-trained", "longer")
JUDGED = ("accuracy", "roc_auc")

# The pre-training: the paper's weights of the three terms (section 4.2), its expander narrower as the network is.
LOOKS = 80  # epochs
BATCH, RATE, WEIGHT_DECAY = 128, 2e-3, 1e-2
EXPANDED = 512
ALIKE, VARIED, UNLIKE = 25.0, 25.0, 1.0
VIEWS = AugmentConfig(
    flips="dihedral", shift=0.15, rotate=10, zoom=0.25, brightness=0.1, contrast=0.4, noise=0.03, erase=0.5
)

Show = Callable[[float], None]


def run(folder: Path, track: Track, epochs: int = EPOCHS, looks: int = LOOKS, seeds: int = SEEDS) -> Result:
    sample = write_sample("elpv", folder / "raw")
    made = preprocess(sample.model_copy(update={"image": replace(sample.image, size=SIZE)}), UPath(folder / "store"))
    job = job_of(made, sample, place(made.folder, RESIDENT_BYTES))
    test, show, found = held_out(made), percents(track, len(ARMS) * seeds), []
    for seed in range(seeds):
        once = replace(job, config=replace(job.config, epochs=epochs, seed=seed))
        step = [partial(show, len(ARMS) * seed + k) for k in range(len(ARMS))]
        scratch = learned("scratch", once, made.digest, test, step[0])
        helped = learned("pre-trained", once, made.digest, test, step[1], looks)
        fitting = round(epochs * (helped["seconds"] + helped["pre-training"]) / scratch["seconds"])
        longer = replace(once, config=replace(once.config, epochs=fitting))
        found.append((scratch, helped, learned("longer", longer, made.digest, test, step[2])))
    return Result(
        "self_supervised",
        f"ELPV, {job.model.arch} of width {job.model.width} at {SIZE} px, {made.train:,} training images, "
        f"{made.test:,} held out; {epochs} epochs, after {looks} without labels, and "
        f"{', '.join(str(longer['epochs']) for *_, longer in found)} from scratch; on {describe(find_device())}",
        tuple(
            Comparison(
                f"{name}, pre-trained",
                "from scratch, equal time",
                tuple(helped[name] for _, helped, _ in found),
                tuple(longer[name] for *_, longer in found),
                unit="",
            )
            for name in JUDGED
        ),
        tuple(measures(found)),
    )


def measures(found: Sequence[tuple[dict[str, Any], ...]]) -> list[Measure]:
    lines = [
        Measure(f"{arm}, {name}", tuple(outcomes[k][name] for outcomes in found))
        for k, arm in enumerate(ARMS)
        for name in JUDGED
    ]
    times = [Measure(f"{arm}, training", tuple(o[k]["seconds"] for o in found), "s") for k, arm in enumerate(ARMS)]
    return [*lines, *times, Measure("pre-training", tuple(helped["pre-training"] for _, helped, _ in found), "s")]


def learned(arm: str, job: Job, digest: str, test: Test, show: Show, looks: int = 0) -> dict[str, Any]:
    """How good the held-out images' probabilities are after this training, and after so many looks before it."""

    def work(checkpoint: UPath) -> dict[str, Any]:
        device, model, before = find_device(), job.model, 0.0
        if looks:
            weights = checkpoint.with_name("weights.safetensors")
            if not weights.exists():
                pre_train(job, looks, device, weights, lambda share: show(share / 2))
            before = float(weights.with_suffix(".seconds").read_text())
            model = replace(model, pretrained=str(weights))

        rest = (lambda share: show((1 + share) / 2)) if looks else show
        classifier, epochs = train(replace(job, model=model), checkpoint, rest)
        probabilities = classifier.probabilities(test.pixels)
        judged = {name: METRICS[name](test.labels, probabilities) for name in JUDGED}
        times = {"seconds": seconds(epochs, job.train), "pre-training": before}
        return {**judged, **times, "epochs": len(epochs), "training": [epoch.accuracy for epoch in epochs]}

    show(0)
    code = source_digest(sys.modules[__name__]) if looks else ""
    outcome = kept(f"self-{arm}-{job.config.seed}", work, digest, job.model, job.config, looks, code)
    show(1)
    return outcome


def pre_train(job: Job, looks: int, device: torch.device, to: UPath, show: Show) -> None:
    """VICReg on the training images. The network's weights go to `to`, the seconds beside them."""
    began, seed = time.perf_counter(), job.config.seed
    images = Resident.of(shards.read(job.files, "train", job.classes), device)
    moments = Normalisation(*shards.pixel_moments(job.files, job.classes))
    network = resnet.build(job.model, size=SIZE, classes=len(job.classes), seed=seed)
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    learning = nn.ModuleList([network, expander(network.fc.in_features).to(device)]).train()
    optimizer = AdamW(learning.parameters(), RATE, weight_decay=WEIGHT_DECAY)
    schedule = OneCycleLR(optimizer, RATE, looks * len(list(images.epoch(BATCH, 0))), pct_start=0.1)
    for look in range(looks):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + look)
        for batch in images.epoch(BATCH, seed * 1_000_003 + look):
            views = [to_input(augment(batch.pixels, VIEWS, generator), moments) for _ in range(2)]
            distance(*(features(learning, view) for view in views)).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
        show((look + 1) / looks)
    to.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous().cpu() for name, value in network.state_dict().items()}
    to.with_suffix(".seconds").write_text(str(time.perf_counter() - began))
    save_file({name: value for name, value in state.items() if not name.startswith("fc.")}, str(to))


def expander(width: int) -> nn.Sequential:
    """[B, width] -> [B, EXPANDED], where the features are compared (section 4.1)."""
    layers: list[nn.Module] = []
    for inputs in (width, EXPANDED):
        layers += [nn.Linear(inputs, EXPANDED, bias=False), nn.BatchNorm1d(EXPANDED), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(EXPANDED, EXPANDED, bias=False))


def features(learning: nn.ModuleList, x: Tensor) -> Tensor:
    network, expand = learning
    assert isinstance(network, ResNet)
    expanded: Tensor = expand(network.pool(network.stages(network.stem(x))))
    return expanded


def distance(one: Tensor, other: Tensor) -> Tensor:
    """The loss of two views, [B, EXPANDED] each (section 4.1, equations 1 to 6)."""
    return ALIKE * F.mse_loss(one, other) + sum(VARIED * steady(z) + UNLIKE * correlated(z) for z in (one, other))


def steady(z: Tensor) -> Tensor:
    """How far the standard deviations are below 1, half of it: the two views' mean."""
    return F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean() / 2


def correlated(z: Tensor) -> Tensor:
    """The squares of the covariances of different features."""
    centred = z - z.mean(0)
    covariance = centred.T @ centred / (len(z) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / z.shape[1]
