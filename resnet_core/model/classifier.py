"""A trained network with its class names, preprocessing, normalisation and calibration.

model.safetensors  the weights
model.json         everything else, as text
calibration.json   the calibration, after the evaluation
novelty.safetensors  what tells unknown images, after the evaluation

Reading the files executes nothing in them.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

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
from resnet_core.model.novelty import Distances, Novelty, load_novelty
from resnet_core.model.resnet import ModelConfig, build, find_stem
from resnet_core.model.sized import Network, averaged_sides, sized

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"

# Bytes of the stem's output, the largest tensor, of a batch on a CPU. From 32 MiB on, the allocator asks the system
# for every tensor anew. Late layers are slow with fewer than eight images.
_STEM_BYTES, _BATCHES = 16 * 2**20, (8, 128)

# Why an image needs a person's eyes: it is unlike all that was learned; its set has not exactly one class; its label,
# chosen by costs or recalls, is not the most probable one. Texts by the sum of their bits.
REASONS = ("unknown", "set", "cost")
_REASON_TEXTS = np.array(
    [", ".join(name for k, name in enumerate(REASONS) if bits >> k & 1) or None for bits in range(2 ** len(REASONS))],
    dtype=object,
)

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
    novelty, unknown: the p-value of the image's distance from all that was learned, and whether it is below the level.
    needs_review: whether the plausible classes are not exactly one, or the image is unknown. review_reason: why.
    """

    label: str
    confidence: float
    probabilities: NDArray[np.float32]  # [C], in the order of `Classifier.classes`
    prediction_set: tuple[str, ...] | None = None
    needs_review: bool | None = None
    novelty: float | None = None
    unknown: bool | None = None
    review_reason: str | None = None


class _Judgement(NamedTuple):
    """Decisions on N images. A column is None for a version that has nothing to tell it by."""

    decided: NDArray[np.int64]  # [N], places in the class names
    sets: NDArray[np.bool_] | None  # [N, C]
    novelty: NDArray[np.float32] | None  # [N], p-values
    unknown: NDArray[np.bool_] | None  # [N]
    needs_review: NDArray[np.bool_] | None  # [N]
    review_reason: NDArray[np.object_] | None  # [N], of REASONS, or None


@dataclass(frozen=True)
class Classifier:
    """Gray levels to class probabilities, as in the training."""

    network: Network
    config: ModelConfig
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    normalisation: Normalisation
    calibration: Calibration = field(default_factory=Calibration)
    novelty: Novelty | None = None

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
        return self.answer(pixels, batch_size, side)[0]

    def answer(
        self, pixels: NDArray[np.uint8], batch_size: int | None = None, side: int | None = None
    ) -> tuple[NDArray[np.float32], Distances | None]:
        """Return `probabilities`, and the distances [N] of `novelty` if there is one, in the same passes."""
        if len(pixels) == 0:
            empty = np.empty((0, len(self.classes)), dtype=np.float32)
            return empty, None if self.novelty is None else empty[:, 0]
        self.network.eval()
        novelty, parts = self.novelty, []
        with torch.inference_mode(), full_precision(self.device):
            for batch in torch.from_numpy(np.ascontiguousarray(pixels)).split(batch_size or self.usual_batch(side)):
                found = self.outputs(batch.to(self.device), side, features=novelty is not None)
                parts.append((found[0].cpu(), novelty.distances(found[1]).cpu()) if novelty else (found[0].cpu(),))
        shares, *far = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
        return self.calibration.calibrated(checked(shares)), far[0] if far else None

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features by which `novelty` tells unknown images, float32 [N, F].

        They are the input of the last layer, and the means of the first two stages.
        """
        self.network.eval()
        with torch.inference_mode(), full_precision(self.device):
            batches = torch.from_numpy(np.ascontiguousarray(pixels)).split(self.usual_batch())
            return torch.cat([self.outputs(batch.to(self.device))[1].cpu() for batch in batches]).numpy()

    def outputs(self, pixels: Tensor, side: int | None = None, features: bool = True) -> tuple[Tensor, ...]:
        """Return `probabilities` before the calibration, float32 [B, C], and with features those of `novelty`, [B, F].

        They are means over the views. pixels: uint8 [B, S, S] on the device.
        """
        x = to_input(pixels, self.normalisation)
        x = x if side is None else resize_batch(x, side)
        found = zip(*(seen(self.network, view, features) for view in views(x, self.config)), strict=True)
        return tuple(torch.stack(each).mean(0) for each in found)

    def predict(self, images: Sequence[NDArray[Any]]) -> list[_Prediction]:
        """Classify raw images [H, W] of any size, in order.

        Levels of uint8 are gray already. Others are scaled by the ranges of the training's data set, as in a batch.
        Raises UserError for levels that those ranges do not cover.
        """
        pixels = [resize(self._gray(image), self.preprocessing) for image in images]
        return self.decide(*self.answer(np.stack(pixels))) if pixels else []

    def _gray(self, image: NDArray[Any]) -> Gray:
        try:
            return to_gray(Stored(image), self.preprocessing.rule)
        except BadImageError as error:
            raise UserError(f"an image of {image.dtype}: {error}. Or give uint8, gray levels from 0 to 255.") from None

    def decide(self, probabilities: NDArray[np.float32], distances: Distances | None = None) -> list[_Prediction]:
        """Decide on a class for each row of calibrated float32 [N, C]."""
        found = self.judge(probabilities, distances)
        empty = [None] * len(probabilities)
        columns = (
            empty
            if found.sets is None
            else [tuple(self.classes[j] for j in np.flatnonzero(row)) for row in found.sets],
            *(
                empty if column is None else column.tolist()
                for column in (found.needs_review, found.novelty, found.unknown, found.review_reason)
            ),
        )
        return [
            _Prediction(self.classes[k], float(shares[k]), shares, *rest)
            for k, shares, *rest in zip(found.decided, probabilities, *columns, strict=True)
        ]

    def judge(self, probabilities: NDArray[np.float32], distances: Distances | None = None) -> _Judgement:
        """Decide on calibrated float32 [N, C], and say which images need a person's eyes."""
        decided, sets = self.calibration.decided(probabilities), self.calibration.sets(probabilities)
        novelty = None if self.novelty is None or distances is None else self.novelty.p_values(distances)
        unknown = None if self.novelty is None or novelty is None else self.novelty.is_unknown(novelty)
        unclear = None if sets is None else sets.sum(1) != 1
        known = [mask for mask in (unknown, unclear) if mask is not None]
        if not known:
            return _Judgement(decided, sets, novelty, unknown, None, None)
        needs = np.logical_or.reduce(known)
        none = np.zeros(len(decided), np.bool_)
        masks = (none if unknown is None else unknown, none if unclear is None else unclear,
                 needs & (decided != probabilities.argmax(1)))  # fmt: skip
        return _Judgement(
            decided, sets, novelty, unknown, needs, _REASON_TEXTS[sum(m * 2**k for k, m in enumerate(masks))]
        )

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.contiguous().cpu() for name, value in self.network.state_dict().items()}
        save_file(state, folder / WEIGHTS)
        text = json.dumps(self.description(), indent=2, ensure_ascii=False)
        (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
        if self.calibration != Calibration():
            self.calibration.save(folder)
        if self.novelty is not None:
            self.novelty.save(folder)

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
        calibration, novelty = load_calibration(folder), load_novelty(folder, *plain.described())
        novelty = novelty and novelty.to(target)
        return cls(network, config, tuple(text["classes"]), preprocessing, normalisation, calibration, novelty)


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


def seen(network: Network, x: Tensor, features: bool = True) -> tuple[Tensor, ...]:
    """Return probabilities [B, C] of float32 [B, 1, S, S], and with features those of `novelty`, [B, F]."""
    own = network.at(x.shape[-1])
    stages = own.stages(own.stem(x))
    last = own.pool(stages)
    shares = own.fc(last).softmax(1)
    return (shares, torch.cat([last, own.early(stages)], 1)) if features else (shares,)


def views(x: Tensor, config: ModelConfig) -> Iterator[Tensor]:
    """Yield the sizes and mirror images of float32 [B, 1, S, S] that a score averages; x alone by default."""
    for side in config.score_scales or (x.shape[-1],):
        resized = resize_batch(x, side)
        for image in (resized, resized.transpose(-1, -2)) if config.score_flips == "dihedral" else (resized,):
            for axes in MIRRORED[config.score_flips]:
                yield image.flip(axes) if axes else image
