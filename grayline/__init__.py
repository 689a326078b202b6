"""Use Grayline from Python. These are the only names that are promised to stay.

    import grayline

    night = grayline.retrain("data/parts.yaml")          # as `grayline retrain`
    scores = grayline.classify_batch("data/raw/new")     # as `grayline classify-batch`
    model = grayline.load("parts@champion")
    model.predict(["a.png", image_array, pil_image])
    model.embed(["a.png"])
    trained = grayline.train("data/raw/parts")           # without a registry: nothing is kept

Rooms: `nights` (retrain, classify_batch), `models` (load), `trainings` (train). Door: this package.
`import grayline` takes no time: a name is imported when it is first used.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grayline.models import Model as Model
    from grayline.models import load as load
    from grayline.nights import Night as Night
    from grayline.nights import Scores as Scores
    from grayline.nights import classify_batch as classify_batch
    from grayline.nights import retrain as retrain
    from grayline.trainings import Trained as Trained
    from grayline.trainings import train as train
    from resnet_core.errors import JobError as JobError
    from resnet_core.errors import UserError as UserError
    from resnet_core.inference.single import Prediction as Prediction

_ROOMS = {
    "JobError": "resnet_core.errors",
    "Model": "grayline.models",
    "Night": "grayline.nights",
    "Prediction": "resnet_core.inference.single",
    "Scores": "grayline.nights",
    "Trained": "grayline.trainings",
    "UserError": "resnet_core.errors",
    "classify_batch": "grayline.nights",
    "load": "grayline.models",
    "retrain": "grayline.nights",
    "train": "grayline.trainings",
}
__all__ = [*_ROOMS, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            return version("grayline")
        except PackageNotFoundError:  # a clone that is not installed
            return "0+unknown"
    if name not in _ROOMS:
        raise AttributeError(f"module 'grayline' has no attribute {name!r}. It has: {', '.join(__all__)}")
    if wrong := import_module("grayline.__main__").foreign():
        raise ImportError(wrong)
    import_module("grayline._environment")  # before Prefect and MLflow read their variables
    return getattr(import_module(_ROOMS[name]), name)


def __dir__() -> list[str]:
    return __all__
