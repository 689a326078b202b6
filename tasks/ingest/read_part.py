"""Ingest: read the files of a part, once: hash, size, decoding, statistics, and the pixels that
preprocessing will want."""

from prefect import task

from resnet_core.images.preprocessing import Preprocessing
from resnet_core.reading.image import Limits
from resnet_core.reading.pool import read_files
from resnet_core.shards.encryption import Keys
from tasks.ingest.pixels import is_complete, write_part
from tasks.parts import Part


@task(retries=2, retry_delay_seconds=5, task_run_name="read {part.path.name}")
def read_part(part: Part, settings: Preprocessing, limits: Limits, keys: Keys | None = None) -> int:
    """Read every file of the part and write its facts and pixels. Returns the number of files."""
    if not is_complete(part, keys):
        files = part.files()
        write_part(part, files, read_files(files, settings, limits), keys)
    return part.count
