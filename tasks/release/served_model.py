"""The pyfunc of a registered version, logged by MLflow as code: no pickle is written or read.

MLflow runs this file when it loads a version; `resnet_core` travels with the version, so that
`mlflow.pyfunc.load_model("models:/NAME@champion")` works where Grayline is not installed.
"""

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from resnet_core.model.classifier import Classifier
from resnet_core.storage.digest import DIGESTS, check_digests

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
        """Map uint8 [N, H, W] of any height and width to N rows.

        MLflow's signature refuses other types. Without it (`unwrap_python_model`), they are scaled as in a batch.
        Raises MlflowException for another shape, and for levels that say nothing.
        """
        images = np.asarray(model_input)
        _check(images)
        predictions = self.classifier.predict(list(images))
        return pd.DataFrame(
            {
                "label": [p.label for p in predictions],
                "confidence": [p.confidence for p in predictions],
                "probabilities": [p.probabilities.tolist() for p in predictions],
                "prediction_set": [None if p.prediction_set is None else list(p.prediction_set) for p in predictions],
                "needs_review": [p.needs_review for p in predictions],
            }
        )


class _ServedClassifier(_RawImages, PythonModel):
    """The class that MLflow loads. `predict` is inherited on purpose.

    MLflow takes the type hints of a PythonModel's own `predict` for a schema and overrules the signature with it.
    """


mlflow.models.set_model(_ServedClassifier())
