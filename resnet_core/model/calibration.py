"""Calibration: a temperature, decision weights and prediction sets, in `calibration.json` beside the model.

`evaluation.calibrate` fits it. Applying it takes NumPy alone.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_core.errors import NotANumberError

CALIBRATION = "calibration.json"
FLOOR = 1e-30  # the least probability of which a logarithm is taken
FEWEST = 200  # images that a temperature is fitted on
SAME = 1e-7  # probabilities that differ by less are the same: float32 has no more digits


@dataclass(frozen=True)
class Calibration:
    """The defaults change nothing, decide on the most probable class, and have no prediction sets.

    weights: by class, for decisions; empty: all 1.
    coverage: the share of images whose prediction set has the true class.
    threshold: of the prediction sets; None: no sets.
    fitted_on, images: the split that it was fitted on, and its images.
    """

    temperature: float = 1.0
    weights: tuple[float, ...] = ()
    coverage: float | None = None
    threshold: float | None = None
    fitted_on: str = "nothing"
    images: int = 0

    def calibrated(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the softmax of the log-probabilities divided by the temperature, float32 [N, C].

        Guo et al. 2017, arXiv:1706.04599, section 4.2.
        """
        if self.temperature == 1:
            return probabilities
        logits = np.log(np.maximum(probabilities.astype(np.float64), FLOOR)) / self.temperature
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return (shares / shares.sum(1, keepdims=True)).astype(np.float32)

    def weighted(self, probabilities: NDArray[np.float32]) -> NDArray[np.floating]:
        """Return calibrated float32 [N, C] times the weights of the classes: the largest is decided on."""
        return probabilities.astype(np.float64) * np.array(self.weights) if self.weights else probabilities

    def decided(self, probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the class with the largest weighted probability, int64 [N], of calibrated float32 [N, C]."""
        return self.weighted(probabilities).argmax(1)

    def sets(self, probabilities: NDArray[np.float32]) -> NDArray[np.bool_] | None:
        """Return the prediction sets, bool [N, C], of calibrated float32 [N, C]; None without a threshold.

        A set always has the most probable class.
        """
        if self.threshold is None:
            return None
        members: NDArray[np.bool_] = probabilities.astype(np.float64) >= 1 - self.threshold - SAME
        members[np.arange(len(members)), probabilities.argmax(1)] = True
        return members

    def described(self) -> dict[str, Any]:
        """Return the content of the file."""
        return asdict(self) | {"weights": list(self.weights)}

    def save(self, folder: Path) -> None:
        """Write the file. Raises NotANumberError for NaN and infinity, by which nothing can be decided."""
        if not np.isfinite([self.temperature, *self.weights, self.threshold or 0.0]).all():
            raise NotANumberError(f"the calibration is not made of numbers: {self.described()}")
        (folder / CALIBRATION).write_text(json.dumps(self.described(), indent=2) + "\n", encoding="utf-8")


def in_words(temperature: float, images: int) -> str:
    """Say whether a temperature is used, and why not: `calibrate.find_temperature` decides."""
    if temperature != 1:
        return f"temperature {temperature:.2f}"
    return "no temperature: " + (
        f"{images:,} images are too few to find one ({FEWEST})"
        if images < FEWEST
        else "it does not help on the other half of the images"
    )


def load_calibration(folder: Path) -> Calibration:
    """Read the file that `save` has written; without a file, return the calibration that changes nothing."""
    path = folder / CALIBRATION
    if not path.exists():
        return Calibration()
    values = json.loads(path.read_text(encoding="utf-8"))
    return Calibration(**values | {"weights": tuple(values["weights"])})
