"""The pyfunc of a registered version, logged by MLflow as code: no pickle is written or read.

MLflow runs this file when it loads a version; `resnet_core` travels with the version, so that
`mlflow.pyfunc.load_model("models:/NAME@champion")` works where Grayline is not installed.
"""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from resnet_core.classifier import Classifier


class ServedClassifier(PythonModel):
    """Raw gray levels in, one row of label, confidence and probabilities an image out."""

    def load_context(self, context: PythonModelContext) -> None:
        self.classifier = Classifier.load(Path(context.artifacts["classifier"]))

    def predict(
        self, context: PythonModelContext, model_input: Any, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """uint8 [N, H, W] of any height and width -> N rows."""
        images = np.asarray(model_input, dtype=np.uint8)
        predictions = self.classifier.predict(list(images))
        return pd.DataFrame(
            {
                "label": [p.label for p in predictions],
                "confidence": [p.confidence for p in predictions],
                "probabilities": [p.probabilities.tolist() for p in predictions],
            }
        )


mlflow.models.set_model(ServedClassifier())
