"""Predict some images at once: files by their listing, or files, bytes, arrays and Pillow's images in memory.

All are decoded as the version's training images were.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from resnet_core.credentials import public
from resnet_core.errors import UserError
from resnet_core.images.levels import BadImageError, Stored, to_gray
from resnet_core.images.limits import DEFAULT_LIMITS, Limits
from resnet_core.images.preprocessing import Preprocessing, resize
from resnet_core.inference.scores import predictions
from resnet_core.model.classifier import Classifier
from resnet_core.reading.image import ReadImage, as_table, read_image
from resnet_core.reading.pool import iterate_files, read_file
from resnet_core.shards.format import unpacked
from resnet_core.storage.locations import absolute

if TYPE_CHECKING:
    from PIL.Image import Image

    Input = str | PathLike[str] | bytes | NDArray[Any] | Image

_COLORS = (3, 4)  # channels: RGB, RGBA
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


@dataclass(frozen=True)
class Prediction:
    """The outcome for an image. `label` is None where it could not be read: see `reason_code` and `reason`.

    image: its path, or its place in the list as `#3`. confidence: the calibrated probability of `label`.
    prediction_set: the plausible classes; None for a version without sets.
    novelty: the p-value of the image's distance from all that was learned; `unknown` if it is below the version's
    level. None for a version without. needs_review: unknown, or not exactly one class; `review_reason` says which.
    """

    image: str
    label: str | None
    confidence: float | None
    probabilities: dict[str, float]
    prediction_set: tuple[str, ...] | None
    needs_review: bool | None
    reason_code: str | None = None
    reason: str | None = None
    review_reason: str | None = None
    novelty: float | None = None
    unknown: bool | None = None


def predict_files(classifier: Classifier, files: pa.Table, limits: Limits = DEFAULT_LIMITS) -> Iterator[Prediction]:
    """Yield a prediction per row of a listing, in order. Reader processes decode while the network computes."""
    done = 0
    for images in iterate_files(files, classifier.preprocessing, limits):
        yield from _decide(classifier, files["path"].slice(done, len(images)).to_pylist(), images)
        done += len(images)


def predict_images(classifier: Classifier, images: "Iterable[Input]") -> list[Prediction]:
    """Return a prediction per image, in order; the decoding runs in this process.

    images: paths or URLs, files' bytes, arrays of gray levels [H, W] or colors [H, W, 3 or 4], Pillow's images.
    Raises UserError for something else; an image that cannot be read is a prediction with a reason.
    """
    names, read = read_images(classifier.preprocessing, images)
    return list(_decide(classifier, names, as_table(read, classifier.preprocessing.size))) if read else []


def read_images(settings: Preprocessing, images: "Iterable[Input]") -> tuple[list[str], list[ReadImage]]:
    """Return the name and the pixels of each image. Raises UserError for what is none."""
    if isinstance(images, str | bytes | PathLike) or hasattr(images, "mode"):
        raise UserError("images: give a list, as in predict([image])")
    names, read = [], []
    for number, image in enumerate(images):
        names.append(public(fspath(image)) if isinstance(image, str | PathLike) else f"#{number}")
        read.append(_read(image, settings, names[-1]))
    return names, read


def _read(image: Any, settings: Preprocessing, name: str) -> ReadImage:
    if isinstance(image, str | PathLike):
        return read_file(absolute(name), settings)
    if isinstance(image, bytes):
        return read_image(image, settings)
    if hasattr(image, "mode") and hasattr(image, "save"):
        return read_image(_as_file(image), settings)
    if isinstance(image, np.ndarray) and image.ndim == 2 and image.size:
        return _scaled(image, settings)
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] in _COLORS and image.dtype == np.uint8:
        from PIL import Image

        return read_image(_as_file(Image.fromarray(image)), settings)
    found = f"an array of {image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise UserError(
        f"image {name}: {found} is none. Give a path, a file's bytes, a Pillow image, an array of gray levels [H, W], "
        "or one of colors, uint8 [H, W, 3]."
    )


def _scaled(levels: NDArray[Any], settings: Preprocessing) -> ReadImage:
    height, width = levels.shape
    try:
        gray = to_gray(Stored(levels), settings.rule)
    except BadImageError as error:
        return ReadImage(None, width, height, reason=error.reason)
    return ReadImage(None, width, height, pixels=resize(gray, settings))


def _as_file(image: "Image") -> bytes:
    """Return a file of the image without a loss, with its orientation: it is decoded as any other file."""
    file = io.BytesIO()
    image.save(file, "PNG" if image.mode in _PNG_MODES else "TIFF", exif=image.getexif())
    return file.getvalue()


def _decide(classifier: Classifier, names: Sequence[str], images: pa.Table) -> Iterator[Prediction]:
    """images: in the columns of `resnet_core.reading.image.schema`."""
    good = np.flatnonzero(images["reason_code"].is_null().to_numpy())
    pixels = unpacked(images["pixels"], classifier.preprocessing.size)[good]
    found = dict(zip(good.tolist(), predictions(classifier, *classifier.answer(pixels)).to_pylist(), strict=True))
    reasons = images.select(["reason_code", "reason"]).to_pylist()
    for row, name in enumerate(names):
        if row not in found:
            yield Prediction(name, None, None, {}, None, None, **reasons[row])
            continue
        one = found[row]
        shares = dict(zip(classifier.classes, one["probabilities"], strict=True))
        plausible = None if one["prediction_set"] is None else tuple(one["prediction_set"])
        more = {key: one[key] for key in ("review_reason", "novelty", "unknown")}
        yield Prediction(name, one["label"], one["confidence"], shares, plausible, one["needs_review"], **more)
