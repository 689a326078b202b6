"""Answers: a version's probabilities for some held-out images, kept with it. Every machine and engine is held to them.

`answers.parquet` lies beside `calibration.json`. A row is an image: `image_id`, `probabilities` (float32 [C]) and
`pixels` (size * size gray levels, preprocessed). The schema's metadata has the classes. The file is encrypted if the
images are confidential.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.export.graph import Run
from resnet_core.shards import format as shards
from resnet_core.shards.encryption import Keys
from resnet_core.storage.files import DamagedFileError

ANSWERS = "answers.parquet"
MOST = 512  # images
_LEAST, _BYTES = 128, 2**24  # images, and bytes of their pixels


class NoAnswersError(Exception):
    """A version has no answers that can be used. The text says why."""


@dataclass(frozen=True)
class Answers:
    """Probabilities, float32 [N, C], for images, uint8 [N, S, S]. whose: in words."""

    pixels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    whose: str = "those that the gate saw"

    def __len__(self) -> int:
        return len(self.pixels)

    def some(self, most: int) -> "Answers":
        """Return at most `most` of them, evenly spread: neighbours often share a class."""
        places = np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).astype(np.int64))
        return replace(self, pixels=self.pixels[places], probabilities=self.probabilities[places])

    def differing(self, run: Run, decided: Callable[[NDArray[np.float32]], NDArray[np.int64]]) -> int:
        """Return how many images get another decision from `run`. NaN, or another shape, is another decision."""
        found = run(self.pixels)
        if found.shape != self.probabilities.shape:
            return len(self)
        other = (decided(found) != decided(self.probabilities)) | ~np.isfinite(found).all(1)
        return int(other.sum())


def how_many(size: int) -> int:
    """Return how many images to keep: 512, and fewer above 181 px, but at least 128."""
    return min(max(_BYTES // size**2, _LEAST), MOST)


def save_answers(
    folder: Path, image_ids: Sequence[str], answers: Answers, classes: Sequence[str], keys: Keys | None
) -> None:
    """Write the file into the folder, encrypted if there are keys."""
    columns = {
        "image_id": pa.array(image_ids, pa.string()),
        "probabilities": pa.array(list(answers.probabilities), pa.list_(pa.float32())),
        "pixels": shards.packed(answers.pixels),
    }
    table = pa.table(columns).replace_schema_metadata({shards.METADATA_KEY: json.dumps({"classes": list(classes)})})
    shards.write_pixels(table, folder / ANSWERS, keys)


def load_answers(folder: Path, classes: Sequence[str], size: int, keys: Keys | None) -> Answers:
    """Read the file of `save_answers`.

    Raises NoAnswersError if it is missing, encrypted without its key, damaged, or of other classes or another size.
    """
    path = folder / ANSWERS
    if not path.exists():
        raise NoAnswersError("no answers were kept with it")
    try:
        table = shards.open_file(UPath(path), keys).read()
        kept = json.loads(table.schema.metadata[shards.METADATA_KEY])["classes"]
        if kept != list(classes) or table.schema.field("pixels").type.byte_width != size**2:
            raise NoAnswersError("its kept answers are of other classes, or of images of another size")
        probabilities = np.array(table["probabilities"].to_pylist(), np.float32).reshape(len(table), len(classes))
        answers = Answers(shards.unpacked(table["pixels"], size).copy(), probabilities)
    except UserError as error:
        raise NoAnswersError(f"its kept answers cannot be read ({error})") from None
    except (DamagedFileError, OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno:  # the disk's word says nothing about the bytes
            raise NoAnswersError(f"its kept answers cannot be read ({error.strerror})") from None
        raise NoAnswersError(f"its kept answers are damaged ({type(error).__name__})") from None
    if not len(answers) or not np.isfinite(probabilities).all():
        raise NoAnswersError("its kept answers are empty, or are not numbers")
    return answers
