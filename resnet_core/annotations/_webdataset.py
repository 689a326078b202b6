"""WebDataset: tar files in which the file `.cls` beside an image, of the same name, holds its class.

The name of a sample ends at the first dot of its file's name, as in webdataset's own reader.
"""

from collections import defaultdict
from typing import Any

import pyarrow as pa

from resnet_core.annotations.people import Answer
from resnet_core.errors import UserError
from resnet_core.sources.fetch import open_files
from resnet_core.sources.listing import LISTING
from resnet_core.sources.source import list_source
from resnet_core.storage.ignored import is_ignored

_CLASS = "cls"


def read(place: str) -> list[tuple[Answer, str]] | None:
    """Return the answers of a tar with the URIs of their images; None without any `.cls`. Raises UserError."""
    classes: dict[str, dict[str, Any]] = {}
    images: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for batch in list_source(place):
        for row in batch.to_pylist():
            sample, ending = _sample(row["path"])
            if ending == _CLASS:
                classes[sample] = row
            elif not is_ignored(row["path"]):
                images[sample].append(row)
    if not classes:
        return None
    texts = open_files(pa.Table.from_pylist(list(classes.values()), LISTING))
    found = []
    for (sample, row), data in zip(classes.items(), texts, strict=True):
        label = _text(data, place, row["path"])
        if len(images[sample]) > 1:
            names = " and ".join(repr(image["path"]) for image in images[sample][:2])
            raise UserError(f"{place}: {row['path']!r} may be the class of {names}. Keep one image a sample.")
        for image in images[sample]:
            found.append((Answer(image["path"], label, others={"source": "WebDataset"}), image["uri"]))
    return found


def _sample(path: str) -> tuple[str, str]:
    folder, slash, name = path.rpartition("/")
    stem, _, ending = name.partition(".")
    return folder + slash + stem, ending.lower()


def _text(data: bytes | OSError, place: str, path: str) -> str | None:
    try:
        if isinstance(data, OSError):
            raise data
        return data.decode("utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{place}: {path!r} cannot be read ({error}). Make the file again.") from None
