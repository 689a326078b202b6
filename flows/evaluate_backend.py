"""Evaluation by another framework: a version's accuracy by its runtime and metric, beside PyTorch's."""

from prefect import flow

from flows.nightly_retrain import shards_of
from resnet_core.export.formats import Backend, check_installed
from tasks.dataset import load_dataset
from tasks.export.backends import BackendAccuracy, measure
from tasks.registry.versions import resolve
from tasks.runner import run_name, task_runner
from tasks.workspace import workspace


@flow(name="evaluate-backend", flow_run_name=run_name, task_runner=task_runner())
def evaluate_backend(dataset: str, backend: Backend, model: str | None = None) -> BackendAccuracy:
    """Export a version and measure it on the held-out images, by another framework and by PyTorch.

    Args:
        dataset: Path of the data set file, for example data/elpv.yaml.
        backend: tensorflow (LiteRT and tf.keras.metrics), onnx (ONNX Runtime), openvino or torch (a .pt2 file).
        model: NAME@ALIAS or NAME/VERSION; by default the data set's champion.
    """
    check_installed("--backend", backend)
    data = load_dataset(dataset)
    here = workspace(data)
    version = resolve(here.tracking_uri, model or data.name)
    _, shard_set = shards_of(data, here)
    return measure(version, backend, shard_set, here)
