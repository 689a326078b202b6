"""Sources: whatever holds images, as a list of files, and the bytes of any of them.

A folder, a glob, a tar, a zip, Parquet files with image bytes, IDX files, or a manifest; each on this
machine or behind an fsspec URL. A file's URI opens it with nothing else: a path or URL; a member of an
archive as fsspec chains it, `tar://cats/1.png::file:///data/x.tar`; a row of a Parquet file or an image
of an IDX file by its number, `/data/x.parquet#row=17`, `s3://b/train-images-idx3-ubyte.gz#image=17`.
"""

import re
from collections.abc import Iterator
from typing import Literal

import pyarrow as pa

from resnet_core.errors import UserError
from resnet_core.sources import _idx, _image_tables, folders, shard_files
from resnet_core.sources._archives import holds_files, list_tar, list_zip
from resnet_core.sources.listing import batches, is_ignored, top_folder
from resnet_core.storage.locations import absolute, facts, printable

Kind = Literal["folder", "glob", "tar", "zip", "parquet", "shards", "idx", "manifest"]

_TAR = re.compile(r".*\.(tar|tar\.(gz|bz2|xz|zst)|tgz|tbz2?|txz|tzst)", re.DOTALL | re.IGNORECASE)
_KINDS: dict[str, Kind] = {"csv": "manifest", "parquet": "parquet", "zip": "zip"}


def source_kind(source: str) -> Kind:
    """What a source is. A folder is one of shards, Parquet or IDX files when it holds nothing else. Raises
    UserError for one that is missing or of an unknown kind."""
    place = absolute(source)
    try:
        kind = facts(place)["type"]
    except FileNotFoundError:
        if folders.is_glob(source):
            return "glob"
        what = "file" if suffix_kind(place) else "folder"
        raise UserError(f"{source}: there is no such {what}. Correct `source:`.") from None
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror or error}). Allow it, or correct it.") from None
    if kind == "directory":
        return _folder_kind(place)
    found = suffix_kind(place) if kind == "file" else None
    if found == "parquet":
        with _image_tables.open_table(place) as table:
            if shard_files.is_shard(table):
                return "shards"
            return "parquet" if _image_tables.image_column(table.schema_arrow, source) else "manifest"
    if found is None:
        raise UserError(f"{source}: is no folder and no .csv or .parquet manifest, tar, zip or IDX file. Correct it.")
    return found


def check_source(source: str) -> None:
    """Raises UserError unless there is something to list; looks at no image."""
    try:
        kind = source_kind(source)
        empty = _is_empty(source, kind)
    except PermissionError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror or error}). Allow it.") from None
    if empty:
        what = "no file matches it" if kind == "glob" else "holds no images"
        raise UserError(f"{source}: {what}. Fill it, or correct `source:`.")


def list_source(source: str) -> Iterator[pa.RecordBatch]:
    """A row a file, of any kind of source but a manifest: record batches of LISTING, in no order that
    can be relied on. What is no image (hidden files, sidecars, symbolic links in archives, members that
    a later one replaces, folders that may not be read) is a row that says `ignored`. Memory does not
    grow with their number. Raises UserError for a source that cannot be listed to its end."""
    place = absolute(source)
    match source_kind(source):
        case "folder":
            return folders.list_folder(place)
        case "glob":
            return folders.list_glob(folders.parse_glob(place))
        case "tar":
            return list_tar(place)
        case "zip":
            return list_zip(place)
        case "parquet" | "shards" | "idx" as kind:
            return _list_containers(place, kind)
        case "manifest":
            raise UserError(f"{source}: is a manifest, and lists files that lie elsewhere.")


def _is_empty(source: str, kind: Kind) -> bool:
    place = absolute(source)
    match kind:
        case "manifest":
            return False
        case "tar" | "zip":
            return not holds_files(place, kind)
        case "folder":
            return next(folders.walk(place), None) is None
        case "glob":
            glob = folders.parse_glob(place)
            return next(folders.walk(glob.folder, glob), None) is None
        case _:
            return next(list_source(source), None) is None


def suffix_kind(place: str) -> Kind | None:
    """What a file is by its name."""
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


def _list_containers(place: str, kind: Kind) -> Iterator[pa.RecordBatch]:
    """Parquet, shards or IDX: a file, or all files of a folder, whose others are ignored rows."""
    ways = {"parquet": _image_tables.list_table, "shards": shard_files.list_shard, "idx": _idx.list_images}
    list_one = ways[kind]
    if facts(place)["type"] == "file":
        yield from list_one(place, place.rpartition("/")[2])
        return
    for uri, path, size, modified in folders.walk(place):
        uri, path = printable(uri), printable(path)
        if size is None or is_ignored(path) or _idx.is_labels(path):
            row = (uri, path, size or 0, modified, None if size is None else top_folder(path))
            yield from batches([(*row, *[None] * 5, True)])
        else:
            yield from list_one(uri, path)
