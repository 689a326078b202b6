"""References: a model's training data in numbers, kept with the model and compared with its batches.

file                   content
reference.json         thresholds, and the fields of a summary
reference.safetensors  `embeddings`, unless the images are confidential

Both lie beside `calibration.json`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from resnet_core.drift.drift import Thresholds
from resnet_core.drift.summary import Summary
from resnet_core.drift.unknown import Ranks

REFERENCE, EMBEDDINGS = "reference.json", "reference.safetensors"
MOST = 500  # embeddings; compared with as many of a batch, a test takes some tenths of a second


@dataclass(frozen=True)
class Reference:
    """The data that a model's batches are compared with.

    `summary` has labels, reviews and confidences of the held-out images, by the model. Its brightness, contrast and
    sharpness are of the training images. `embeddings`, float32 [N, D], are of held-out images, or None. `ranks` are
    those of `novelty` p-values, None for a version without.
    """

    summary: Summary
    thresholds: Thresholds
    embeddings: NDArray[np.float32] | None = None
    ranks: Ranks | None = None

    def save(self, folder: Path) -> None:
        content = {"thresholds": asdict(self.thresholds), **self.summary.to_dict()}
        if self.ranks:
            content["novelty"] = asdict(self.ranks)
        (folder / REFERENCE).write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
        if self.embeddings is not None:
            save_file({"embeddings": np.ascontiguousarray(self.embeddings)}, folder / EMBEDDINGS)


def load_reference(folder: Path) -> Reference | None:
    """Read the files of `Reference.save`, or return None if there are none.

    Missing thresholds have their defaults; unknown ones are ignored.
    """
    if not (folder / REFERENCE).exists():
        return None
    content = json.loads((folder / REFERENCE).read_text(encoding="utf-8"))
    fields = Thresholds.__dataclass_fields__
    thresholds = Thresholds(**{name: value for name, value in content["thresholds"].items() if name in fields})
    path = folder / EMBEDDINGS
    embeddings = load_file(path)["embeddings"] if path.exists() else None
    ranks = Ranks(**content["novelty"]) if "novelty" in content else None
    return Reference(Summary.from_dict(content), thresholds, embeddings, ranks)
