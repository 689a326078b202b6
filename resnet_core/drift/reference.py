"""What a model's training data were like, kept with the model: what its batches are held against.

`reference.json` and, where images may be known by their embeddings, `reference.safetensors` lie beside
`calibration.json`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from resnet_core.drift.drift import Thresholds
from resnet_core.drift.profiles import Profile, profile_from

REFERENCE, EMBEDDINGS = "reference.json", "reference.safetensors"
MOST = 500  # embeddings: with a batch's as many, a test takes some tenths of a second


@dataclass(frozen=True)
class Reference:
    """`profile` has labels, reviews and confidences of the held-out images, as the model scores them, and the looks
    of the training images. `embeddings`, float32 [N, D], are of held-out images; None where they must not be kept."""

    profile: Profile
    thresholds: Thresholds
    embeddings: NDArray[np.float32] | None = None

    def save(self, folder: Path) -> None:
        content = {"thresholds": asdict(self.thresholds), **self.profile.described()}
        (folder / REFERENCE).write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
        if self.embeddings is not None:
            save_file({"embeddings": np.ascontiguousarray(self.embeddings)}, folder / EMBEDDINGS)


def load_reference(folder: Path) -> Reference | None:
    """What `save` wrote, None where it wrote nothing. Thresholds that an older version did not write have their
    defaults."""
    if not (folder / REFERENCE).exists():
        return None
    content = json.loads((folder / REFERENCE).read_text(encoding="utf-8"))
    known = {name: value for name, value in content["thresholds"].items() if name in Thresholds.__dataclass_fields__}
    path = folder / EMBEDDINGS
    embeddings = load_file(path)["embeddings"] if path.exists() else None
    return Reference(profile_from(content), Thresholds(**known), embeddings)
