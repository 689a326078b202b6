"""Features: the output of a layer for every image of a data set, as files for other libraries."""

from prefect import flow

from flows.nightly_retrain import shards_of
from resnet_core.inference.feature_files import Kind
from resnet_core.model.features import Layer
from resnet_core.storage.files import to_output
from tasks.dataset import load_dataset
from tasks.export.features import FeatureSet, check_wanted, finish_features, plan_features, write_features
from tasks.registry.versions import resolve
from tasks.runner import fan_out, run_name, task_runner
from tasks.workspace import workspace


@flow(name="features", flow_run_name=run_name, task_runner=task_runner())
def features(
    dataset: str, layer: Layer, kind: Kind, output: str, model: str | None = None, in_clear: bool = False
) -> FeatureSet:
    """Write a layer's output for all images of a data set, in all splits.

    With the same output, an interrupted run resumes.

    Args:
        dataset: Path of the data set file, for example data/elpv.yaml.
        layer: stem, stage1 to stage4, pool (the input of the classifier) or logits.
        kind: safetensors (PyTorch), npz (NumPy), parquet (pandas) or tfrecord (TensorFlow).
        output: Folder to write to.
        model: NAME@ALIAS or NAME/VERSION; by default the data set's champion.
        in_clear: Write features of an encrypted data set, too.
    """
    data, folder = load_dataset(dataset), to_output(output, "-o")
    here = workspace(data)
    check_wanted(kind, folder, data.encrypt, in_clear)
    version = resolve(here.tracking_uri, model or data.name)
    night, _ = shards_of(data, here)
    plan = plan_features(version, night, layer, kind, folder, here)
    images = sum(part.count for part in plan.waiting)
    fan_out("features", lambda part: write_features.submit(part, plan.job, here), plan.waiting, images)
    return finish_features(plan)
