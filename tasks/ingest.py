"""Ingest: read the files of a part, once: hash, size, decoding, statistics, and the pixels that
preprocessing will want."""

from prefect import task

from resnet_core.encryption import Keys
from resnet_core.preprocessing import Preprocessing
from resnet_core.read import Limits
from resnet_core.reading import read_files
from tasks.parts import Part
from tasks.pixels import is_complete, write_part


@task(retries=2, retry_delay_seconds=5, task_run_name="read {part.path.name}")
def read_part(part: Part, settings: Preprocessing, limits: Limits, keys: Keys | None = None) -> int:
    """Read every file of the part and write its facts and pixels. Returns the number of files."""
    if not is_complete(part, keys):
        files = part.files()
        write_part(part, files, read_files(files, settings, limits), keys)
    return part.count
