"""Register: a checkpoint into MLflow's registry, as a version with the alias `challenger`."""

import platform
import warnings
from importlib.metadata import distributions
from importlib.metadata import version as installed
from pathlib import Path

import mlflow
import mlflow.data.pandas_dataset
import numpy as np
import pandas as pd
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import Array
from prefect import task

import resnet_core
from resnet_core import shards
from resnet_core.encryption import Keys
from resnet_core.files import as_local
from tasks import tracking
from tasks.registry import CHALLENGER, CHECKPOINT, CLASSIFIER, value_of
from tasks.values import Catalog, Checkpoint, Evaluation, ModelVersion, ShardSet

SERVED_MODEL = Path(__file__).with_name("served_model.py")
REQUIREMENTS = ("annotated-types", "fsspec", "mlflow", "numpy", "pillow", "safetensors", "torch")

SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1))]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "label"),
            ColSpec(DataType.double, "confidence"),
            ColSpec(Array(DataType.double), "probabilities"),
        ]
    ),
)


@task
def register(
    checkpoint: Checkpoint,
    evaluation: Evaluation,
    catalog: Catalog,
    shard_set: ShardSet,
    tracking_uri: str,
    keys: Keys | None = None,
) -> ModelVersion:
    """Make a version of the checkpoint, or find the one that was made of it, and call it challenger."""
    registry = tracking.client(tracking_uri)
    known = registry.search_model_versions(
        f"name = '{checkpoint.dataset}' and tags.`{CHECKPOINT}` = '{checkpoint.digest}'"
    )
    if known:
        return value_of(known[0])
    registry.log_text(checkpoint.mlflow_run_id, environment(), "environment.txt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # advice on schemas, which are stated here
        log_dataset(tracking_uri, checkpoint.mlflow_run_id, catalog)
        log_model(tracking_uri, checkpoint, shard_set, confidential=keys is not None)
    made = registry.search_model_versions(f"name = '{checkpoint.dataset}' and run_id = '{checkpoint.mlflow_run_id}'")[0]
    tags = {
        CHECKPOINT: checkpoint.digest,
        "grayline.catalog": catalog.digest,
        "grayline.shards": shard_set.digest,
        **{f"test_{name}": str(interval) for name, interval in evaluation.metrics.items()},
    }
    for name, value in tags.items():
        registry.set_model_version_tag(made.name, made.version, name, value)
    registry.update_model_version(made.name, made.version, describe(checkpoint, evaluation, catalog, shard_set))
    registry.set_registered_model_alias(made.name, CHALLENGER, made.version)
    tracking.set_status(tracking_uri, checkpoint.mlflow_run_id, "FINISHED")
    return value_of(made)


def describe(checkpoint: Checkpoint, evaluation: Evaluation, catalog: Catalog, shard_set: ShardSet) -> str:
    """The version's description, as Markdown: what it learned from, and how good it is."""
    metrics = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in evaluation.metrics.items())
    return (
        f"{len(shard_set.classes)} classes ({', '.join(shard_set.classes)}), {shard_set.preprocessing.size} px, "
        f"{checkpoint.epochs} epochs in {checkpoint.seconds:,.0f} s on {checkpoint.device}.\n\n"
        f"Trained on {shard_set.train:,} images, held out {shard_set.test:,}; catalog `{catalog.digest}`, "
        f"shards `{shard_set.digest}`.\n\n| held-out metric | value (95% interval) |\n| --- | --- |\n{metrics}\n"
    )


def environment() -> str:
    """Every installed distribution, pinned, one a line."""
    found = {f"{d.metadata['Name']}=={d.version}" for d in distributions()}
    return f"# Python {platform.python_version()} on {platform.platform()}\n" + "\n".join(sorted(found)) + "\n"


def log_dataset(tracking_uri: str, run_id: str, catalog: Catalog) -> None:
    """The catalog as the run's data set: MLflow shows its digest, its columns and where it lies."""
    with catalog.path.open("rb") as file:
        table = pd.read_parquet(file)
    try:
        source = mlflow.data.dataset_source_registry.resolve_dataset_source(str(catalog.path))
    except MlflowException:  # a kind of store that MLflow does not know
        source = CodeDatasetSource(tags={"catalog": str(catalog.path)})
    dataset = mlflow.data.pandas_dataset.from_pandas(
        table, source=source, name=catalog.dataset, digest=catalog.digest, targets="label"
    )
    mlflow.set_tracking_uri(tracking_uri)
    with mlflow.start_run(run_id=run_id):
        mlflow.log_input(dataset, context="training")


def log_model(tracking_uri: str, checkpoint: Checkpoint, shard_set: ShardSet, confidential: bool) -> None:
    """Weights as safetensors, preprocessing as JSON beside them, the code that reads both as text, two
    held-out images as an example; where images are confidential, two black ones."""
    mlflow.set_tracking_uri(tracking_uri)
    if confidential:
        example = np.zeros((2, shard_set.preprocessing.size, shard_set.preprocessing.size), dtype=np.uint8)
    else:
        example = next(shards.iterate(shard_set.files, "test", shard_set.classes)).pixels[:2]
    with mlflow.start_run(run_id=checkpoint.mlflow_run_id), as_local(checkpoint.folder / "model") as folder:
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(SERVED_MODEL),
            artifacts={CLASSIFIER: str(folder)},
            code_paths=[str(Path(resnet_core.__file__).parent)],
            signature=SIGNATURE,
            input_example=example,
            pip_requirements=[f"{name}=={installed(name)}" for name in REQUIREMENTS],
            registered_model_name=checkpoint.dataset,
        )
