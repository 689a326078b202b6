"""A trained network with all that is needed to use it: class names, preprocessing, normalisation.

On disk it is two files: `model.safetensors`, the weights, and `model.json`, everything else as text.
`calibration.json` comes beside them once the classifier is evaluated. Nothing in them is executed when
they are read.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from resnet_core.device import find_device, full_precision
from resnet_core.images.preprocessing import Gray, Preprocessing, resize
from resnet_core.model.calibration import Calibration, load_calibration
from resnet_core.model.inputs import Flips, Normalisation, resize_batch, to_input
from resnet_core.model.resnet import ModelConfig, build, find_stem
from resnet_core.model.sized import Network, averaged_sides, sized

WEIGHTS = "model.safetensors"
_DESCRIPTION = "model.json"

# Images of a batch on a CPU: so many that the stem's output, the largest there is, takes about so many bytes. From
# 32 MiB on, the allocator asks the system for every tensor anew; a few images leave late layers too little to do.
_STEM_BYTES, _BATCHES = 16 * 2**20, (8, 128)

# The axes to reverse for each mirror image; `dihedral` has the same ones of the transposed image too.
MIRRORED: dict[Flips, tuple[tuple[int, ...], ...]] = {
    "none": ((),),
    "horizontal": ((), (-1,)),
    "vertical": ((), (-2,)),
    "both": ((), (-1,), (-2,), (-1, -2)),
    "dihedral": ((), (-1,), (-2,), (-1, -2)),
}


@dataclass(frozen=True)
class _Prediction:
    """One image's outcome; `probabilities` in the order of the classifier's `classes`. `confidence` is that of
    `label`. `prediction_set` has the classes that the image may well be of, and `needs_review` is whether they
    are not exactly one; None where the classifier knows no sets."""

    label: str
    confidence: float
    probabilities: NDArray[np.float32]  # [C]
    prediction_set: tuple[str, ...] | None = None
    needs_review: bool | None = None


@dataclass(frozen=True)
class Classifier:
    """From gray levels to class probabilities, in the one way that the training used."""

    network: Network
    config: ModelConfig
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    normalisation: Normalisation
    calibration: Calibration = field(default_factory=Calibration)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def sides(self) -> tuple[int, ...]:
        """Of the images that the network is given for a score, in pixels."""
        return self.config.score_scales or (self.preprocessing.size,)

    def usual_batch(self, side: int | None = None) -> int:
        """How many images of that side, by default the largest of `sides`, to give to the network at once."""
        least, most = _BATCHES
        if self.device.type != "cpu":
            return most
        stride = 1 if find_stem(self.config, self.preprocessing.size) == "small" else 2
        values = self.config.width * ((side or max(self.sides)) // stride) ** 2
        return min(max(_STEM_BYTES // (4 * values), least), most)

    def probabilities(
        self, pixels: NDArray[np.uint8], batch_size: int | None = None, side: int | None = None
    ) -> NDArray[np.float32]:
        """Preprocessed uint8 [N, size, size] -> float32 [N, C], rows summing to 1: the mean over the
        configured sizes and mirror images, each of which costs a pass of its own, calibrated. batch_size: by
        default `usual_batch`. side: to resize to first, in pixels."""
        if len(pixels) == 0:
            return np.empty((0, len(self.classes)), dtype=np.float32)
        self.network.eval()
        parts = []
        with torch.inference_mode(), full_precision(self.device):
            for batch in torch.from_numpy(np.ascontiguousarray(pixels)).split(batch_size or self.usual_batch(side)):
                parts.append(self.shares(batch.to(self.device), side).cpu())
        return self.calibration.calibrated(torch.cat(parts).numpy())

    def shares(self, pixels: Tensor, side: int | None = None) -> Tensor:
        """uint8 [B, S, S] on the network's device -> float32 [B, C]: `probabilities` before they are calibrated."""
        x = to_input(pixels, self.normalisation)
        x = x if side is None else resize_batch(x, side)
        return torch.stack([self.network(view).softmax(1) for view in views(x, self.config)]).mean(0)

    def predict(self, images: Sequence[Gray]) -> list[_Prediction]:
        """Raw uint8 [H, W] images, each of any size, in order."""
        pixels = [resize(image, self.preprocessing) for image in images]
        return self.decide(self.probabilities(np.stack(pixels))) if pixels else []

    def decide(self, probabilities: NDArray[np.float32]) -> list[_Prediction]:
        """Calibrated float32 [N, C] -> the class to decide on for each row: the most probable one, unless
        mistakes have costs."""
        sets = self.calibration.sets(probabilities)
        found = []
        for row, (k, shares) in enumerate(zip(self.calibration.decided(probabilities), probabilities, strict=True)):
            plausible = None if sets is None else tuple(self.classes[j] for j in np.flatnonzero(sets[row]))
            review = None if plausible is None else len(plausible) != 1
            found.append(_Prediction(self.classes[k], float(shares[k]), shares, plausible, review))
        return found

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.contiguous().cpu() for name, value in self.network.state_dict().items()}
        save_file(state, folder / WEIGHTS)
        text = json.dumps(self.description(), indent=2, ensure_ascii=False)
        (folder / _DESCRIPTION).write_text(text + "\n", encoding="utf-8")
        if self.calibration != Calibration():
            self.calibration.save(folder)

    def description(self) -> dict[str, Any]:
        return {
            "model": asdict(self.config),
            "averages": list(averaged_sides(self.network)),
            "classes": list(self.classes),
            "preprocessing": asdict(self.preprocessing),
            "normalisation": asdict(self.normalisation),
        }

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "auto") -> "Classifier":
        """Read what `save` wrote, ready to predict on the device (`auto`: the best there is)."""
        text = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        config, preprocessing = model_config(text["model"]), Preprocessing(**text["preprocessing"])
        # Stochastic depth has no weights and is over: without it there need be no torchvision here.
        plain = build(replace(config, drop_path=0.0), size=preprocessing.size, classes=len(text["classes"]))
        network = sized(plain, text.get("averages", ()))
        network.load_state_dict(load_file(folder / WEIGHTS))
        target = find_device(device) if isinstance(device, str) else device
        network = network.to(device=target, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        normalisation = Normalisation(**text["normalisation"])
        calibration = load_calibration(folder)
        return cls(network, config, tuple(text["classes"]), preprocessing, normalisation, calibration)


def model_config(values: dict[str, Any]) -> ModelConfig:
    """What JSON made of a ModelConfig; keys that an older version did not write have their defaults."""
    typed: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return ModelConfig(**typed)


def views(x: Tensor, config: ModelConfig) -> Iterator[Tensor]:
    """The sizes and mirror images of float32 [B, 1, S, S] that a score is the mean of; x alone by default."""
    for side in config.score_scales or (x.shape[-1],):
        resized = resize_batch(x, side)
        for image in (resized, resized.transpose(-1, -2)) if config.score_flips == "dihedral" else (resized,):
            for axes in MIRRORED[config.score_flips]:
                yield image.flip(axes) if axes else image
