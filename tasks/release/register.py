"""Register: a checkpoint becomes a version in MLflow's registry, with the alias `challenger`.

The files are logged, listed with their digests and signed before the version exists: a version whose files cannot
be checked is never seen.
"""

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import mlflow
import mlflow.data.pandas_dataset
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.entities.model_registry import ModelVersion as RegisteredVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array
from mlflow.utils.file_utils import local_file_uri_to_path
from prefect import task

import resnet_core
from resnet_core.credentials import opened
from resnet_core.drift.reference import EMBEDDINGS
from resnet_core.drift.reference import REFERENCE as REFERENCE_FILE
from resnet_core.evaluation.input_sizes import evenly
from resnet_core.inference.answers import Answers, how_many, save_answers
from resnet_core.model.calibration import CALIBRATION as CALIBRATION_FILE
from resnet_core.model.novelty import NOVELTY as NOVELTY_FILE
from resnet_core.shards import format as shards
from resnet_core.shards.encryption import Keys
from resnet_core.storage.digest import DamagedVersionError, file_digest
from resnet_core.storage.files import as_local, flush
from tasks.dataset import CardConfig
from tasks.evaluation.held_out import in_order
from tasks.registry import runs as tracking
from tasks.registry.integrity import check_version, seal
from tasks.registry.patience import asked, download
from tasks.registry.versions import (
    CALIBRATION,
    CATALOG,
    CATALOG_VERSION,
    CHALLENGER,
    CHAMPION,
    CHECKPOINT,
    CLASSIFIER,
    COMMIT,
    LOCK,
    MODEL_FOLDER,
    NOVELTY,
    REFERENCE,
    ROLLED_BACK,
    SEED,
    SHARDS,
    by_alias,
    value_of,
    versions_of,
)
from tasks.release.card import Made, card
from tasks.settings import Settings
from tasks.store import LEARNED, LINEAGE, MODEL, PREDICTIONS
from tasks.training.lineage import environment, read_lineage
from tasks.values import Catalog, Checkpoint, Evaluation, ModelVersion, Night, have
from tasks.workspace import Workspace

log = logging.getLogger("grayline")

_SERVED_MODEL = Path(__file__).with_name("served_model.py")
_REQUIREMENTS = ("annotated-types", "fsspec", "mlflow", "numpy", "pillow", "safetensors", "torch")
_DECODERS = ("imagecodecs", "kornia-rs", "simplejpeg", "tifffile")

# No schema has files, paths and arrays of several sizes at once: `served_model` says what it takes.
SIGNATURE = ModelSignature(
    outputs=Schema(
        [
            ColSpec(DataType.string, "label"),
            ColSpec(DataType.double, "confidence"),
            ColSpec(Array(DataType.double), "probabilities"),
            ColSpec(Array(DataType.string), "prediction_set", required=False),
            ColSpec(DataType.boolean, "needs_review", required=False),
            ColSpec(DataType.double, "novelty", required=False),
            ColSpec(DataType.boolean, "unknown", required=False),
            ColSpec(DataType.string, "review_reason", required=False),
            ColSpec(DataType.string, "reason_code", required=False),
            ColSpec(DataType.string, "reason", required=False),
        ]
    ),
)


@task
def register(night: Night, here: Workspace) -> ModelVersion:
    """Make a version of the checkpoint, or find the earlier one, and call it challenger.

    The same checkpoint with another calibration decides otherwise, and with another reference it finds drift
    elsewhere: it is another version.
    """
    checkpoint, evaluation, catalog = have(night.checkpoint), have(night.evaluation), night.catalog
    tracking_uri, run_id = here.tracking_uri, checkpoint.mlflow_run_id
    registry = tracking.client(tracking_uri)
    measured = digests_of(evaluation)
    known = _find_known(tracking_uri, checkpoint, measured)
    if known and _is_whole(tracking_uri, value_of(known)):
        _call_challenger(registry, known)
        return value_of(known)
    made = Made(checkpoint, evaluation, catalog, have(night.shard_set), _whole_lineage(checkpoint))
    registry.log_text(run_id, environment(made.lineage), "environment.txt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # advice on schemas, which are stated here
        asked(tracking_uri, _log_dataset, tracking_uri, run_id, catalog)
        model_id = asked(tracking_uri, _log_model, tracking_uri, made, here.keys)
    seals = _seal_model(registry, model_id)
    if not registry.search_registered_models(f"name = '{checkpoint.dataset}'"):
        registry.create_registered_model(checkpoint.dataset)
    version = registry.create_model_version(
        checkpoint.dataset,
        f"models:/{model_id}",
        run_id,
        _tags_of(made) | measured | seals,
        description=card(made, CardConfig(**made.lineage.get("dataset", {}).get("card", {}))),
        model_id=model_id,
    )
    tracking.note_registration(checkpoint.folder, run_id)
    tracking.set_tags(tracking_uri, run_id, {CATALOG: catalog.digest, CATALOG_VERSION: str(catalog.version)})
    _call_challenger(registry, version)
    tracking.set_status(tracking_uri, run_id, "FINISHED")
    return value_of(version)


def _call_challenger(registry: MlflowClient, version: RegisteredVersion) -> None:
    """Let `promote` without a number mean the version that comes before tonight's gate, and no earlier one.

    Neither the champion nor a version that a person has taken back is called so.
    """
    aliases = registry.get_registered_model(version.name).aliases
    if str(version.version) in (str(aliases.get(CHAMPION)), str(aliases.get(CHALLENGER))):
        return
    if ROLLED_BACK not in version.tags:
        registry.set_registered_model_alias(version.name, CHALLENGER, version.version)
    elif CHALLENGER in aliases:
        registry.delete_registered_model_alias(version.name, CHALLENGER)


def digests_of(evaluation: Evaluation) -> dict[str, str]:
    """Return the digests of calibration, reference and novelty as tags; `none` for a missing one."""
    found = {}
    for tag, name in ((CALIBRATION, CALIBRATION_FILE), (REFERENCE, REFERENCE_FILE), (NOVELTY, NOVELTY_FILE)):
        found[tag] = "none"
        if (evaluation.folder / name).exists():
            with as_local(evaluation.folder / name) as file:
                found[tag] = file_digest(file)
    return found


def _find_known(tracking_uri: str, checkpoint: Checkpoint, measured: dict[str, str]) -> RegisteredVersion | None:
    """Return the newest version of this checkpoint, with this calibration and reference."""
    versions = versions_of(tracking_uri, checkpoint.dataset)
    wanted = {CHECKPOINT: checkpoint.digest, **measured}
    same = [number for number, version in versions.items() if wanted.items() <= version.tags.items()]
    return versions[max(same, key=int)] if same else None


def _is_whole(tracking_uri: str, known: ModelVersion) -> bool:
    """Return whether the version's files are those that were registered: else its checkpoint is registered again.

    Otherwise each later night would end before the gate. A damaged champion is a person's to restore: it is refused
    where it would answer, and nothing takes its place meanwhile.
    """
    champion = by_alias(tracking_uri, known.name, CHAMPION)
    if champion and champion.version == known.version:
        return True
    try:
        check_version(tracking_uri, known)
    except DamagedVersionError as error:
        log.warning("register    %s It is registered again, from the same training", error)
        return False
    return True


def _whole_lineage(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the record of the training and its seconds; empty for a training of an earlier release."""
    begun = read_lineage(checkpoint.folder)
    return begun and begun | {"seconds": checkpoint.seconds}


def _tags_of(made: Made) -> dict[str, str]:
    """Return the tags that a version is searched by, and those that tell its origin."""
    dataset = made.lineage.get("dataset", {})
    facts = {
        CHECKPOINT: made.checkpoint.digest,
        CATALOG: made.catalog.digest,
        CATALOG_VERSION: str(made.catalog.version),
        SHARDS: made.shard_set.digest,
        COMMIT: made.lineage.get("commit"),
        LOCK: made.lineage.get("lock"),
        SEED: made.lineage.get("seeds", {}).get("training"),
        "grayline.dataset": made.checkpoint.dataset,
        "grayline.arch": dataset.get("model", {}).get("arch"),
        "grayline.recipe": dataset.get("recipe"),
    }
    metrics = {f"test_{name}": str(interval) for name, interval in made.evaluation.metrics.items()}
    return {name: str(value) for name, value in facts.items() if value is not None} | metrics


def _seal_model(registry: MlflowClient, model_id: str) -> dict[str, str]:
    """List the digests of the files in MLflow's store, and sign them if a key is set. Returns the version's tags."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = download(registry.tracking_uri, f"models:/{model_id}", scratch)
        tags, files = seal(folder, Settings().signing_key)
        for file in files:
            registry.log_model_artifact(model_id, str(file))
    place = registry.get_logged_model(model_id).artifact_location
    local = place.startswith(("file:", "/"))  # a server has its own disk
    if local and (made := Path(local_file_uri_to_path(place))).is_dir():  # type: ignore[no-untyped-call]
        flush(made)  # before a version says that they are there
    return tags


def _log_dataset(tracking_uri: str, run_id: str, catalog: Catalog) -> None:
    """Log the catalog as the run's data set: MLflow shows its digest, its columns and its place."""
    with catalog.path.open("rb") as file:
        table = pd.read_parquet(file)
    try:
        source = mlflow.data.dataset_source_registry.resolve_dataset_source(str(catalog.path))
    except MlflowException:  # a kind of store that MLflow does not know; no server is asked
        source = CodeDatasetSource(tags={"catalog": str(catalog.path)})
    dataset = mlflow.data.pandas_dataset.from_pandas(
        table, source=source, name=catalog.dataset, digest=catalog.digest, targets="label"
    )
    mlflow.set_tracking_uri(opened(tracking_uri))
    with mlflow.start_run(run_id=run_id):
        mlflow.log_input(dataset, context="training", tags={CATALOG_VERSION: str(catalog.version)})


def _log_model(tracking_uri: str, made: Made, keys: Keys | None) -> str:
    """Log the files of the version as a pyfunc. Returns MLflow's id of it.

    They are weights as safetensors, settings as JSON, the code as text, and answers for held-out images. Two of the
    images are the example. If they are confidential, the answers are encrypted, and the example is gray.
    """
    mlflow.set_tracking_uri(opened(tracking_uri))
    shard_set = made.shard_set
    if keys:
        example = np.full((2, shard_set.preprocessing.size, shard_set.preprocessing.size), 128, dtype=np.uint8)
    else:
        example = next(shards.iterate(shard_set.files, "test", shard_set.classes)).pixels[:2]
    with mlflow.start_run(run_id=made.checkpoint.mlflow_run_id), _model_files(made, keys) as artifacts:
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(_SERVED_MODEL),
            artifacts=artifacts,
            code_paths=[str(Path(resnet_core.__file__).parent)],
            signature=SIGNATURE,
            input_example=example,
            pip_requirements=[f"{name}=={installed(name)}" for name in (*_REQUIREMENTS, *_DECODERS)],
        )
    return str(logged.model_id)


@contextmanager
def _model_files(made: Made, keys: Keys | None) -> Iterator[dict[str, str]]:
    """Yield the pyfunc's artifacts: the classifier's folder with calibration, reference and answers; lineage, ids."""
    with tempfile.TemporaryDirectory() as scratch, as_local(made.checkpoint.folder / MODEL) as trained:
        folder, lineage = Path(scratch) / MODEL_FOLDER, Path(scratch) / LINEAGE
        shutil.copytree(trained, folder)
        for name in (CALIBRATION_FILE, REFERENCE_FILE, EMBEDDINGS, NOVELTY_FILE):
            if (found := made.evaluation.folder / name).exists():
                (folder / name).write_bytes(found.read_bytes())
        _keep_answers(folder, made, keys)
        lineage.write_text(json.dumps(made.lineage, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        artifacts = {CLASSIFIER: str(folder), "lineage": str(lineage)}
        if (made.checkpoint.folder / LEARNED).exists():  # not in a training of an earlier release
            learned = Path(scratch) / LEARNED
            learned.write_bytes((made.checkpoint.folder / LEARNED).read_bytes())
            artifacts["learned"] = str(learned)
        yield artifacts


def _keep_answers(folder: Path, made: Made, keys: Keys | None) -> None:
    """Write the evaluation's probabilities for some held-out images, with their pixels.

    An evaluation without predictions leaves none: engines are then held to float32 on their machine.
    """
    shard_set, path = made.shard_set, made.evaluation.folder / PREDICTIONS
    if not shard_set.test or not path.exists():
        return
    places = evenly(shard_set.test, how_many(shard_set.preprocessing.size))
    images = list(shards.iterate(shard_set.files, "test", shard_set.classes, keys, places))
    image_ids = np.concatenate([each.image_ids for each in images]).tolist()
    with path.open("rb") as file:
        rows = in_order(pq.read_table(file, columns=["image_id", "probabilities"]), image_ids)
    answers = Answers(np.concatenate([each.pixels for each in images]), np.stack(rows["probabilities"].to_numpy()))
    save_answers(folder, image_ids, answers, shard_set.classes, keys)
