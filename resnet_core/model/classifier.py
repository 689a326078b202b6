"""A trained network with its class names, preprocessing, normalisation and calibration.

model.safetensors  the weights
model.json         everything else, as text
calibration.json   the calibration, after the evaluation

Reading the files executes nothing in them.
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
from resnet_core.errors import NotANumberError, UserError, plural
from resnet_core.images.levels import BadImageError, Stored, to_gray
from resnet_core.images.preprocessing import Gray, Preprocessing, resize
from resnet_core.model.calibration import Calibration, load_calibration
from resnet_core.model.inputs import Flips, Normalisation, resize_batch, to_input
from resnet_core.model.resnet import ModelConfig, build, find_stem
from resnet_core.model.sized import Network, averaged_sides, sized

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"

# Bytes of the stem's output, the largest tensor, of a batch on a CPU. From 32 MiB on, the allocator asks the system
# for every tensor anew. Late layers are slow with fewer than eight images.
_STEM_BYTES, _BATCHES = 16 * 2**20, (8, 128)

# The axes to reverse for each mirror image; `dihedral` adds those of the transposed image.
MIRRORED: dict[Flips, tuple[tuple[int, ...], ...]] = {
    "none": ((),),
    "horizontal": ((), (-1,)),
    "vertical": ((), (-2,)),
    "both": ((), (-1,), (-2,), (-1, -2)),
    "dihedral": ((), (-1,), (-2,), (-1, -2)),
}


@dataclass(frozen=True)
class _Prediction:
    """The outcome for an image; `confidence` is the probability of `label`.

    prediction_set: the plausible classes; None if the calibration has no sets.
    needs_review: whether they are not exactly one.
    """

    label: str
    confidence: float
    probabilities: NDArray[np.float32]  # [C], in the order of `Classifier.classes`
    prediction_set: tuple[str, ...] | None = None
    needs_review: bool | None = None


@dataclass(frozen=True)
class Classifier:
    """Gray levels to class probabilities, as in the training."""

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
        """Sides in pixels of the network's inputs for a score."""
        return self.config.score_scales or (self.preprocessing.size,)

    def usual_batch(self, side: int | None = None) -> int:
        """Return the batch size for images of that side, by default the largest of `sides`."""
        least, most = _BATCHES
        if self.device.type != "cpu":
            return most
        stride = 1 if find_stem(self.config, self.preprocessing.size) == "small" else 2
        values = self.config.width * ((side or max(self.sides)) // stride) ** 2
        return min(max(_STEM_BYTES // (4 * values), least), most)

    def probabilities(
        self, pixels: NDArray[np.uint8], batch_size: int | None = None, side: int | None = None
    ) -> NDArray[np.float32]:
        """Return calibrated probabilities, float32 [N, C], for preprocessed uint8 [N, size, size].

        They are the mean over the configured sizes and mirror images, with a pass for each.
        Raises NotANumberError if one of them is not a number.
        batch_size: by default `usual_batch`. side: to resize to first, in pixels.
        """
        if len(pixels) == 0:
            return np.empty((0, len(self.classes)), dtype=np.float32)
        self.network.eval()
        parts = []
        with torch.inference_mode(), full_precision(self.device):
            for batch in torch.from_numpy(np.ascontiguousarray(pixels)).split(batch_size or self.usual_batch(side)):
                parts.append(self.shares(batch.to(self.device), side).cpu())
        return self.calibration.calibrated(checked(torch.cat(parts).numpy()))

    def shares(self, pixels: Tensor, side: int | None = None) -> Tensor:
        """Return `probabilities` before the calibration, float32 [B, C], for uint8 [B, S, S] on the device."""
        x = to_input(pixels, self.normalisation)
        x = x if side is None else resize_batch(x, side)
        return torch.stack([self.network(view).softmax(1) for view in views(x, self.config)]).mean(0)

    def predict(self, images: Sequence[NDArray[Any]]) -> list[_Prediction]:
        """Classify raw images [H, W] of any size, in order.

        Levels of uint8 are gray already. Others are scaled by the ranges of the training's data set, as in a batch.
        Raises UserError for levels that those ranges do not cover.
        """
        pixels = [resize(self._gray(image), self.preprocessing) for image in images]
        return self.decide(self.probabilities(np.stack(pixels))) if pixels else []

    def _gray(self, image: NDArray[Any]) -> Gray:
        try:
            return to_gray(Stored(image), self.preprocessing.rule)
        except BadImageError as error:
            raise UserError(f"an image of {image.dtype}: {error}. Or give uint8, gray levels from 0 to 255.") from None

    def decide(self, probabilities: NDArray[np.float32]) -> list[_Prediction]:
        """Decide on a class for each row of calibrated float32 [N, C]."""
        sets = self.calibration.sets(probabilities)
        predictions = []
        for row, (k, shares) in enumerate(zip(self.calibration.decided(probabilities), probabilities, strict=True)):
            plausible = None if sets is None else tuple(self.classes[j] for j in np.flatnonzero(sets[row]))
            review = None if plausible is None else len(plausible) != 1
            predictions.append(_Prediction(self.classes[k], float(shares[k]), shares, plausible, review))
        return predictions

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.contiguous().cpu() for name, value in self.network.state_dict().items()}
        save_file(state, folder / WEIGHTS)
        text = json.dumps(self.description(), indent=2, ensure_ascii=False)
        (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
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
        """Read the files of `save`, ready to predict on the device (`auto`: see `find_device`)."""
        text = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        config, preprocessing = model_config(text["model"]), Preprocessing.of(text["preprocessing"])
        # Without stochastic depth, which has no weights, torchvision is not needed.
        plain = build(replace(config, drop_path=0.0), size=preprocessing.size, classes=len(text["classes"]))
        network = sized(plain, text.get("averages", ()))
        network.load_state_dict(load_file(folder / WEIGHTS))
        target = find_device(device) if isinstance(device, str) else device
        network = network.to(device=target, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        normalisation = Normalisation(**text["normalisation"])
        calibration = load_calibration(folder)
        return cls(network, config, tuple(text["classes"]), preprocessing, normalisation, calibration)


def checked(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities [N, C] as they are. Raises NotANumberError for NaN and infinity, which decide nothing."""
    wrong = int((~np.isfinite(probabilities).all(1)).sum())
    if wrong:
        raise NotANumberError(
            f"the network's answers for {wrong:,} of {plural(len(probabilities), 'image')} are not numbers"
        )
    return probabilities


def model_config(values: dict[str, Any]) -> ModelConfig:
    """Return the ModelConfig of its JSON; keys that an older version did not write have their defaults."""
    typed: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return ModelConfig(**typed)


def views(x: Tensor, config: ModelConfig) -> Iterator[Tensor]:
    """Yield the sizes and mirror images of float32 [B, 1, S, S] that a score averages; x alone by default."""
    for side in config.score_scales or (x.shape[-1],):
        resized = resize_batch(x, side)
        for image in (resized, resized.transpose(-1, -2)) if config.score_flips == "dihedral" else (resized,):
            for axes in MIRRORED[config.score_flips]:
                yield image.flip(axes) if axes else image
