"""A version's int8 file: whether the gate has allowed it, and the file after a check.

It is made after the version's files are sealed, and is therefore an artifact of the version's run.
It is signed like versions; its digest is in a tag of the version.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from resnet_core.storage.digest import GONE, DamagedVersionError, file_digest
from tasks.registry.integrity import verify
from tasks.registry.patience import download, says_missing
from tasks.registry.runs import client
from tasks.registry.versions import INT8
from tasks.settings import Settings
from tasks.values import ModelVersion

FILE = "int8.onnx"


def place_of(version: ModelVersion) -> str:
    """Return the artifact folder; versions of one training share its run."""
    return f"int8/{version.version}"


def _tag_of(tracking_uri: str, version: ModelVersion) -> dict[str, Any]:
    tags = client(tracking_uri).get_model_version(version.name, version.version).tags
    return dict(json.loads(tags.get(INT8, "{}")))


@dataclass(frozen=True)
class Int8:
    """An int8 file that the gate has allowed. `differing`: the share of decisions that the gate saw differ."""

    digest: str
    differing: float = 0.0


def allowed_int8(tracking_uri: str, version: ModelVersion) -> Int8 | None:
    """Return the version's int8 file; None if the gate has not allowed it, or if the version does not exist.

    Raises RegistryError where MLflow does not answer.
    """
    try:
        tag = _tag_of(tracking_uri, version)
    except MlflowException as error:
        if says_missing(error):
            return None
        raise
    return Int8(tag["sha256"], tag.get("differing", 0.0)) if tag.get("allowed") else None


def why_not(tracking_uri: str, version: ModelVersion) -> str:
    """Return why int8 is not allowed, and the remedy."""
    loss = _tag_of(tracking_uri, version).get("found")
    if loss:
        return f"the gate has not allowed it for {version}: {loss}. Use another engine, or raise `int8` of the gate."
    return f"it was not measured for {version}. Set `gate: {{int8: 0.01}}` in the data set file, and retrain."


@contextmanager
def int8_file(tracking_uri: str, version: ModelVersion, digest: str) -> Iterator[Path]:
    """Yield a local copy. Raises DamagedVersionError unless it was measured, and signed by GRAYLINE_VERIFY_KEY."""
    with tempfile.TemporaryDirectory() as scratch:
        uri = f"runs:/{version.run_id}/{place_of(version)}"
        try:
            folder = download(tracking_uri, uri, scratch)
        except (MlflowException, *GONE) as error:  # the registry's or the disk's own word
            raise _refusal(version, f"is gone from {uri} ({type(error).__name__})") from None
        path = folder / FILE
        if not path.is_file() or file_digest(path) != digest:
            raise _refusal(version, "is not the one that the gate has measured")
        if key := Settings().verify_key:
            try:
                verify(folder, Path(key))
            except DamagedVersionError as error:
                raise _refusal(version, f"is refused: {error}") from None
        from resnet_core.export.onnx_file import external_data  # needs PyTorch, which a look at the tags does not

        if names := external_data(path):
            raise _refusal(version, f"names other files: {', '.join(names[:3])}")
        yield path


def _refusal(version: ModelVersion, why: str) -> DamagedVersionError:
    return DamagedVersionError(f"{version}: its int8 file {why}. Use another engine: --engine torch.")
