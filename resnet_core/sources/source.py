"""Sources: anything that holds images, as a list of files. `list_source` is the door.

source                                     URI of a file
folder, glob, manifest (paths in a table)  its path or URL
tar, zip                                   tar://cats/1.png::file:///data/x.tar, as fsspec chains it
Parquet with image bytes, shards           /data/x.parquet#row=17
IDX (MNIST's format)                       s3://b/train-images-idx3-ubyte.gz#image=17

Every source lies on this machine or behind an fsspec URL. A URI opens its file with nothing else.
"""

import re
from collections.abc import Collection, Iterator
from typing import Literal

import pyarrow as pa

from resnet_core.errors import UserError
from resnet_core.sources import _idx, _image_tables, folders, shard_files
from resnet_core.sources._archives import holds_files, list_tar, list_zip
from resnet_core.sources.listing import record_batch, top_folder
from resnet_core.storage import globs
from resnet_core.storage.ignored import is_ignored
from resnet_core.storage.locations import absolute, facts, printable

Kind = Literal["folder", "glob", "tar", "zip", "parquet", "shards", "idx", "manifest"]

_TAR = re.compile(r".*\.(tar|tar\.(gz|bz2|xz|zst)|tgz|tbz2?|txz|tzst)", re.DOTALL | re.IGNORECASE)
_KINDS: dict[str, Kind] = {"csv": "manifest", "parquet": "parquet", "zip": "zip"}


def source_kind(source: str) -> Kind:
    """Return the kind of a source. A folder with nothing but shards, Parquet or IDX files has their kind.

    Raises UserError for a source that is missing or of an unknown kind.
    """
    place = absolute(source)
    try:
        kind = facts(place)["type"]
    except FileNotFoundError:
        if globs.is_glob(source):
            return "glob"
        what = "file" if suffix_kind(place) else "folder"
        raise UserError(f"{source}: there is no such {what}. Correct `source:`.") from None
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror or error}). Allow it, or correct it.") from None
    if kind == "directory":
        return _folder_kind(place)
    file_kind = suffix_kind(place) if kind == "file" else None
    if file_kind == "parquet":
        with _image_tables.open_table(place) as table:
            if shard_files.is_shard(table):
                return "shards"
            return "parquet" if _image_tables.image_column(table.schema_arrow, source) else "manifest"
    if file_kind is None:
        raise UserError(f"{source}: not a folder, .csv or .parquet manifest, tar, zip or IDX file. Correct `source:`.")
    return file_kind


def check_source(source: str) -> None:
    """Raise UserError unless there is something to list; opens no image."""
    try:
        kind = source_kind(source)
        empty = _is_empty(source, kind)
    except PermissionError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror or error}). Allow it.") from None
    if empty:
        what = "no file matches it" if kind == "glob" else "holds no images"
        raise UserError(f"{source}: {what}. Fill it, or correct `source:`.")


def list_source(source: str, own: Collection[str] = ()) -> Iterator[pa.RecordBatch]:
    """Yield one row per file as LISTING, in no particular order, for any source but a manifest.

    own: places of own outputs, which are left out if they lie in the source.

    Rows with `ignored`: names of `storage.ignored`, folders that may not be read, own outputs, second paths of a file;
    in archives also symbolic links and members that a later one replaces. Memory grows with the number of links
    alone. Raises UserError for a source that cannot be listed to its end.
    """
    place = absolute(source)
    match source_kind(source):
        case "folder":
            return folders.list_folder(place, own)
        case "glob":
            return folders.list_glob(globs.parse_glob(place), own)
        case "tar":
            return list_tar(place)
        case "zip":
            return list_zip(place)
        case "parquet" | "shards" | "idx" as kind:
            return _list_containers(place, kind, own)
        case "manifest":
            raise UserError(f"{source}: a manifest, not images. Give the folder of its images.")


def _is_empty(source: str, kind: Kind) -> bool:
    match kind:
        case "manifest":
            return False
        case "tar" | "zip":
            return not holds_files(absolute(source), kind)
        case _:
            return next(list_source(source), None) is None


def suffix_kind(place: str) -> Kind | None:
    """Return the kind of a file by its name."""
    name = place.rpartition("/")[2]
    if place.startswith(("http://", "https://")):
        name = re.split("[?#]", name, maxsplit=1)[0]
    if _idx.is_images(name):
        return "idx"
    if _TAR.fullmatch(name):
        return "tar"
    suffix = name.rpartition(".")[2].lower()
    return _KINDS.get(suffix)


def _folder_kind(folder: str) -> Kind:
    kinds: set[Kind] = set()
    first = ""
    for uri, path, size, _ in folders.walk(folder):
        if size is not None and not is_ignored(path):
            name = path.rpartition("/")[2]
            kinds.add("idx" if _idx.is_labels(name) else suffix_kind(name) or "folder")
            if kinds not in ({"parquet"}, {"idx"}):
                return "folder"
            first = min(first or uri, uri)  # folders are walked in no order
    if kinds == {"parquet"}:
        with _image_tables.open_table(first) as table:
            return "shards" if shard_files.is_shard(table) else "parquet"
    return next(iter(kinds), "folder")


def _list_containers(place: str, kind: Kind, own: Collection[str]) -> Iterator[pa.RecordBatch]:
    """List Parquet, shards or IDX: a file, or all files of a folder, whose others are ignored rows."""
    ways = {"parquet": _image_tables.list_table, "shards": shard_files.list_shard, "idx": _idx.list_images}
    list_file = ways[kind]
    if facts(place)["type"] == "file":
        yield from list_file(place, place.rpartition("/")[2])
        return
    for uri, path, size, modified in folders.walk(place, own=own):
        uri, path = printable(uri), printable(path)
        if size is None or is_ignored(path) or _idx.is_labels(path):
            label = None if size is None else top_folder(path)
            file = {"uri": uri, "path": path, "size": size or 0, "modified": modified, "label": label, "ignored": True}
            yield record_batch(1, file)
        else:
            yield from list_file(uri, path)
