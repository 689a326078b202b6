"""Export: a version as a file that another framework runs."""

from prefect import flow

from resnet_core.export.formats import Format
from resnet_core.storage.files import to_output
from tasks.export.export import Export, export_on_record
from tasks.registry.versions import resolve
from tasks.runner import run_name
from tasks.workspace import workspace


@flow(name="export", flow_run_name=run_name)
def export(model: str, kind: Format, output: str, allow_difference: bool = False) -> Export:
    """Write a version as one file, checked on held-out images before it appears.

    Args:
        model: NAME@ALIAS or NAME/VERSION; NAME is its champion.
        kind: onnx, litert, torch (a .pt2 file) or int8 (ONNX).
        output: The file to write.
        allow_difference: Write it even if it differs from the model by more than rounding explains.
    """
    here = workspace().with_known_keys()
    version = resolve(here.tracking_uri, model, field="NAME@ALIAS")
    return export_on_record(version, kind, to_output(output, "-o"), here, allow_difference)
