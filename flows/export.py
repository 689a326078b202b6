"""Export: a version as a file that another framework runs."""

from prefect import flow
from upath import UPath

from resnet_core.export.formats import Format
from resnet_core.storage.files import absolute
from tasks.export.export import Export, export_on_record
from tasks.registry.versions import resolve
from tasks.settings import Settings, known_keys


@flow(name="export")
def export(model: str, kind: Format, output: str, allow_difference: bool = False) -> Export:
    """Write a version as one file, checked on held-out images before it appears.

    Args:
        model: NAME@ALIAS or NAME/VERSION; NAME is its champion.
        kind: onnx, litert, torch (a .pt2 file) or int8 (ONNX).
        output: The file to write.
        allow_difference: Write it even if it differs from the model by more than rounding explains.
    """
    settings = Settings()
    version = resolve(settings.tracking_uri, model, field="NAME@ALIAS")
    place = (absolute(UPath(output)), settings.root, settings.tracking_uri)
    return export_on_record(version, kind, *place, known_keys(settings), allow_difference)
