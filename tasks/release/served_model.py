"""The pyfunc of a registered version, logged by MLflow as code: no pickle is written or read.

MLflow runs this file when it loads a version; `resnet_core` travels with the version, so that
`mlflow.pyfunc.load_model("models:/NAME@champion")` works where Grayline is not installed.
"""

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from resnet_core.model.classifier import Classifier
from resnet_core.storage.digest import DIGESTS, check_digests


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
        """
        images = np.asarray(model_input)
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
