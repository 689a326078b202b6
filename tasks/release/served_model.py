"""The pyfunc of a registered version, logged by MLflow as code: no pickle is written or read.

MLflow runs this file when it loads a version; `resnet_core` travels with the version, so that
`mlflow.pyfunc.load_model("models:/NAME@champion")` works where Grayline is not installed.
"""

import base64
import binascii
import os
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from resnet_core.images.decode import decode
from resnet_core.images.levels import BadImageError, Gray, Stored, to_gray
from resnet_core.images.limits import DEFAULT_LIMITS
from resnet_core.model.classifier import Classifier
from resnet_core.reasons import Reason, ReasonCode
from resnet_core.storage.digest import DIGESTS, check_digests

_SERVES = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"  # set by `mlflow models serve`
_ROOTS = "GRAYLINE_MANIFEST_ROOTS"  # folders that a request may name files of
_CHANNELS = 4  # at most; a batch quarantines images with a side under 4 pixels


def _check(images: np.ndarray) -> None:
    """Refuse what would be taken for other images than it is.

    A colour photograph [H, W, 3] looks like H images of W x 3. MLflow's server makes uint8 of floats from 0 to 1, which
    leaves nothing but 0 and 1.
    """
    wanted = "Give gray levels as uint8 [images, height, width]"
    if images.ndim != 3 or not images.size:
        raise MlflowException.invalid_parameter_value(f"images of the shape {images.shape}. {wanted}.")
    height, width = images.shape[1:]
    if min(height, width) < _CHANNELS or (width == _CHANNELS and height > 2 * width):
        raise MlflowException.invalid_parameter_value(
            f"{len(images)} images of {height} x {width} pixels: a single image with channels? {wanted}: one image is "
            "`image[numpy.newaxis]`, and colours become gray first (`PIL.Image.convert('L')`)."
        )
    if images.dtype.kind in "ui" and (dark := int((images.max(axis=(1, 2)) <= 1).sum())):
        raise MlflowException.invalid_parameter_value(
            f"{dark} of {len(images)} images have no level over 1: floats from 0 to 1? {wanted}, black 0, white 255: "
            "`numpy.rint(255 * image).astype(numpy.uint8)`."
        )


def _images(given: Any) -> list[Any]:
    """Return the images of an input: a table's only column or `image`, or JSON's list or mapping of one."""
    if isinstance(given, dict):
        given = given["image"] if "image" in given else next(iter(given.values()), [])
    elif isinstance(given, pd.DataFrame):
        given = list(given["image"] if "image" in given.columns else given.iloc[:, 0])
    if isinstance(given, np.ndarray) and given.dtype.kind not in "OUS":
        _check(given)
    elif isinstance(given, str | bytes):
        given = [given]
    return list(given)


def _file(text: str) -> bytes:
    """Return the bytes of a file that a text holds in base64, or else names.

    A server reads the folders of _ROOTS alone: who asks it may not be who may read this machine's files.
    """
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        path = Path(text).resolve()
    roots = [Path(root).resolve() for root in os.environ.get(_ROOTS, "").split(",") if root.strip()]
    if os.environ.get(_SERVES) == "true" and not any(path.is_relative_to(root) for root in roots):
        raise BadImageError(ReasonCode.UNREACHABLE, f"a server reads files only in folders that {_ROOTS} names")
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadImageError(ReasonCode.UNREACHABLE, error.strerror or type(error).__name__) from None


class _RawImages:
    """Map gray levels to rows with a label, its confidence and the probabilities, as scoring does."""

    classifier: Classifier

    def load_context(self, context: PythonModelContext) -> None:
        folder = Path(context.artifacts["classifier"])
        version = folder.parents[1]
        if (version / DIGESTS).exists():  # not while it is logged
            check_digests(version, below="artifacts/")
        self.classifier = Classifier.load(folder)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Map N images to N rows; one that cannot be read has a reason instead of a label.

        An image is a file's bytes, also as base64, a file's path, or gray levels [H, W]: an array or lists of lists.
        N images of the same size may be one array [N, H, W]. All are decoded and scaled as in a batch.
        Raises MlflowException for another shape, and for levels that say nothing.
        """
        read = [self._gray(image) for image in _images(model_input)]
        good = [number for number, image in enumerate(read) if not isinstance(image, Reason)]
        table = self._rows([image for image in read if not isinstance(image, Reason)], good)
        reasons = [image if isinstance(image, Reason) else (None, None) for image in read]
        table = table.reindex(range(len(read))) if len(good) < len(read) else table
        table = table.assign(reason_code=[code for code, _ in reasons], reason=[text for _, text in reasons])
        return table if len(good) == len(read) else table.astype(object).where(table.notna(), None)

    def _gray(self, image: Any) -> Gray | Reason:
        """Return gray levels [H, W], or why there are none."""
        rule = self.classifier.preprocessing.rule
        try:
            if isinstance(image, str):
                image = _file(image)
            if isinstance(image, bytes):
                return decode(image, rule, max_pixels=DEFAULT_LIMITS.pixels)
            levels = np.asarray(image)
            if levels.ndim != 2 or not levels.size or levels.dtype.kind not in "uif":
                raise MlflowException.invalid_parameter_value(
                    f"an image of {levels.dtype} {levels.shape}. Give a file's bytes, base64 of them, a path, or gray "
                    "levels [height, width]."
                )
            if levels.dtype == np.int64 and levels.min() >= 0 and levels.max() <= 255:
                levels = levels.astype(np.uint8)  # the numbers of JSON
            elif levels.dtype == np.int64:
                levels = levels.astype(np.uint16 if levels.min() >= 0 and levels.max() < 2**16 else np.int32)
            return to_gray(Stored(levels), rule)
        except BadImageError as error:
            return error.reason

    def _rows(self, images: list[Gray], places: list[int]) -> pd.DataFrame:
        predictions = self.classifier.predict(images)
        return pd.DataFrame(
            index=places,
            data={
                "label": [p.label for p in predictions],
                "confidence": [p.confidence for p in predictions],
                "probabilities": [p.probabilities.tolist() for p in predictions],
                "prediction_set": [None if p.prediction_set is None else list(p.prediction_set) for p in predictions],
                **{
                    name: [getattr(p, name) for p in predictions]
                    for name in ("needs_review", "novelty", "unknown", "review_reason")
                },
            },
        )


class _ServedClassifier(_RawImages, PythonModel):
    """The class that MLflow loads. `predict` is inherited on purpose.

    MLflow takes the type hints of a PythonModel's own `predict` for a schema and overrules the signature with it.
    """


mlflow.models.set_model(_ServedClassifier())
