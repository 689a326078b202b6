"""What a model's probabilities mean: a temperature, the decision that follows, and a set of classes.

It travels with the model, as `calibration.json`; `calibrate` finds it. Applying it takes NumPy alone.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CALIBRATION = "calibration.json"
FLOOR = 1e-30  # the least probability of which a logarithm is taken
SAME = 1e-7  # probabilities that differ by less are the same: float32 has no more digits


@dataclass(frozen=True)
class Calibration:
    """By default it changes nothing, decides on the most probable class, and knows no sets.

    `weights` has one for each class, or none at all, which is 1 for each. Where there are sets, those of
    `coverage` of all images have the true class in them. `images` of the split `fitted_on` it was found on.
    """

    temperature: float = 1.0
    weights: tuple[float, ...] = ()
    coverage: float | None = None
    threshold: float | None = None
    fitted_on: str = "nothing"
    images: int = 0

    def calibrated(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [N, C], of the network -> float32 [N, C]: the softmax of their logarithms over the
        temperature (Guo et al. 2017, arXiv:1706.04599, section 4.2)."""
        if self.temperature == 1:
            return probabilities
        logits = np.log(np.maximum(probabilities.astype(np.float64), FLOOR)) / self.temperature
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return (shares / shares.sum(1, keepdims=True)).astype(np.float32)

    def decided(self, probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
        """Calibrated float32 [N, C] -> int64 [N]: the class whose weighted probability is the largest."""
        if not self.weights:
            return probabilities.argmax(1)
        return (probabilities.astype(np.float64) * np.array(self.weights)).argmax(1)

    def sets(self, probabilities: NDArray[np.float32]) -> NDArray[np.bool_] | None:
        """Calibrated float32 [N, C] -> bool [N, C]: the classes that an image may well be of; the most
        probable one is always among them. None where there is no threshold."""
        if self.threshold is None:
            return None
        found: NDArray[np.bool_] = probabilities.astype(np.float64) >= 1 - self.threshold - SAME
        found[np.arange(len(found)), probabilities.argmax(1)] = True
        return found

    def described(self) -> dict[str, Any]:
        """What the file holds."""
        return asdict(self) | {"weights": list(self.weights)}

    def save(self, folder: Path) -> None:
        (folder / CALIBRATION).write_text(json.dumps(self.described(), indent=2) + "\n", encoding="utf-8")


def load_calibration(folder: Path) -> Calibration:
    """What `save` wrote; where it wrote nothing, the calibration that changes nothing."""
    path = folder / CALIBRATION
    return _calibration_of(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else Calibration()


def _calibration_of(values: dict[str, Any]) -> Calibration:
    return Calibration(**values | {"weights": tuple(values["weights"])})
