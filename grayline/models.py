"""A trained classifier to predict with: a registered version, or one that `train` has made."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from grayline._html import table
from resnet_core.errors import UserError
from resnet_core.inference.single import Prediction, predict_images, read_images
from resnet_core.model.classifier import DESCRIPTION, Classifier
from resnet_core.model.features import embed
from tasks.settings import Settings, check_there

if TYPE_CHECKING:
    from resnet_core.inference.single import Input


@dataclass(frozen=True, repr=False)
class Model:
    """A classifier and its name. Images are decoded as those of its training were.

    Images are paths or URLs, bytes of files, Pillow images, or arrays: gray levels [H, W], or uint8 [H, W, 3 or 4].
    """

    classifier: Classifier
    name: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names, in the order of `Classifier.probabilities`."""
        return self.classifier.classes

    def predict(self, images: "Iterable[Input]") -> list[Prediction]:
        """Return a prediction per image, in order.

        An image that cannot be read has no label, but a reason. Raises UserError for anything else.
        """
        return predict_images(self.classifier, images)

    def embed(self, images: "Iterable[Input]") -> NDArray[np.float32]:
        """Return the input of the last layer, float32 [N, D]: similar images lie near each other.

        Raises UserError for an image that cannot be read.
        """
        names, read = read_images(self.classifier.preprocessing, images)
        pixels = []
        for name, image in zip(names, read, strict=True):
            if image.pixels is None:
                raise UserError(f"image {name}: {image.reason.text if image.reason else 'cannot be read'}")
            pixels.append(image.pixels)
        size = self.classifier.preprocessing.size
        return embed(self.classifier, np.array(pixels, np.uint8).reshape(-1, size, size))

    def save(self, folder: str | Path) -> None:
        """Write the classifier as safetensors and JSON, for `load`. Raises UserError for a folder that is not empty."""
        place = Path(folder)
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise UserError(f"{folder}: is not empty. Give a new folder.")
        self.classifier.save(place)

    def __repr__(self) -> str:
        config, size = self.classifier.config, self.classifier.preprocessing.size
        return f"<{self.name}: {config.arch} of {size} px, {len(self.classes)} classes on {self.classifier.device}>"

    def _repr_html_(self) -> str:
        config, size = self.classifier.config, self.classifier.preprocessing.size
        facts = {"network": f"{config.arch}, {size} px", "classes": ", ".join(self.classes)}
        return table(self.name, ("", ""), facts.items())


def load(model: str | Path | None = None, device: str = "auto") -> Model:
    """Return a registered version, its files checked, or a classifier that `Model.save` has written.

    model: NAME@ALIAS, NAME/VERSION, NAME (its champion), or None for the only model's champion. A Path, or the name of
    a folder that `save` has written, is that folder. Raises UserError for a version that does not exist.
    """
    if isinstance(model, Path) or (model is not None and (Path(model) / DESCRIPTION).is_file()):
        return Model(_load_folder(Path(model)), Path(model).name)
    from tasks.registry import direct

    settings = Settings()
    check_there(settings)
    version, classifier = direct.load(settings.tracking_uri, model, device, "model")
    return Model(classifier, str(version))


def _load_folder(folder: Path) -> Classifier:
    try:
        return Classifier.load(folder)
    except OSError as error:
        raise UserError(f"{folder}: holds no classifier ({error.strerror or error}). Save one by `save`.") from None
