"""Sources: anything that holds images, as a list of files. `list_source` is the door.

source                                     URI of a file
file, folder, glob, manifest (paths)       its path or URL
tar, zip                                   tar://cats/1.png::file:///data/x.tar, as fsspec chains it
Parquet with image bytes, shards           /data/x.parquet#row=17
IDX (MNIST's format)                       s3://b/train-images-idx3-ubyte.gz#image=17

Every source lies on this machine or behind an fsspec URL. A URI opens its file with nothing else.
"""

import logging
import re
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from resnet_core.credentials import public
from resnet_core.errors import UserError, some_of
from resnet_core.policy import OutOfReachError, check_protocol
from resnet_core.reasons import ReasonCode
from resnet_core.sources import _idx, _image_tables, folders, shard_files
from resnet_core.sources._archives import holds_files, list_tar, list_zip
from resnet_core.sources.listing import NO_LABELS, record_batch, top_folder
from resnet_core.storage import globs
from resnet_core.storage.ignored import is_ignored
from resnet_core.storage.locations import absolute, facts, facts_if_there, open_stream, printable

log = logging.getLogger("grayline")

Kind = Literal["file", "folder", "glob", "tar", "zip", "parquet", "shards", "idx", "manifest"]

_HEAD = 64 * 1024  # bytes that tell an image from other files
_TAR = re.compile(r".*\.(tar|tar\.(gz|bz2|xz|zst)|tgz|tbz2?|txz|tzst)", re.DOTALL | re.IGNORECASE)
_KINDS: dict[str, Kind] = {
    "csv": "manifest", "tsv": "manifest", "txt": "manifest", "parquet": "parquet", "zip": "zip"
}  # fmt: skip
_IMAGES = re.compile(
    r"jpe?g|jpe|jfif|png|webp|tiff?|bmp|dib|gif|avif|hei[cf]|jp[2xcf]|j2[kc]|p[nbgp]m|dcm|dicom", re.IGNORECASE
)
_CONTAINER = r"(?i)\.(tar|tar\.(gz|bz2|xz|zst)|tgz|tbz2?|txz|tzst|zip|7z|rar|parquet)$|idx3-ubyte(\.gz)?$"


def source_kind(source: str) -> Kind:
    """Return the kind of a source. A folder of shards, Parquet or IDX files without any image has their kind.

    Raises UserError for a source that is missing or of an unknown kind.
    """
    check_protocol(source)
    source, place = public(source), absolute(source)
    try:
        kind = facts(place)["type"]
    except FileNotFoundError:
        if globs.is_glob(source):
            return "glob"
        what = "file" if suffix_kind(place) or _IMAGES.fullmatch(place.rpartition(".")[2]) else "folder"
        raise UserError(f"{source}: there is no such {what}. Correct `source:`.") from None
    except OutOfReachError:
        raise
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror or error}). Allow it, or correct it.") from None
    if kind == "directory":
        return _folder_kind(place)
    file_kind = suffix_kind(place) if kind == "file" else None
    if file_kind == "parquet":
        with _image_tables.open_table(place) as table:
            if shard_files.is_shard(table):
                return "shards"
            return "parquet" if _image_tables.holds_images(table.schema_arrow, source) else "manifest"
    if file_kind is None and (kind != "file" or is_ignored(place.rpartition("/")[2]) or not _is_image(place)):
        raise UserError(
            f"{source}: not a folder, .csv, .tsv, .txt or .parquet list, tar, zip, IDX or image. Correct `source:`."
        )
    return file_kind or "file"


def _is_image(place: str) -> bool:
    """Return whether a file begins as images do; a damaged or empty one may be an image."""
    from resnet_core.images.decode import decode  # imports Pillow, which few sources need
    from resnet_core.images.levels import BadImageError

    with open_stream(place) as file:
        head = file.read(_HEAD)
    try:
        decode(head)
    except BadImageError as error:
        return error.reason.code not in (ReasonCode.NOT_AN_IMAGE, ReasonCode.EMPTY)
    return True


def check_source(source: str) -> None:
    """Raise UserError unless there is something to list; opens no image."""
    source = public(source)
    try:
        kind = source_kind(source)
        empty = _is_empty(source, kind)
    except PermissionError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror or error}). Allow it.") from None
    if empty:
        what = "no file matches it" if kind == "glob" else "holds no images"
        raise UserError(f"{source}: {what}. Fill it, or correct `source:`.")


def list_source(source: str, own: Collection[str] = (), label_column: str | None = None) -> Iterator[pa.RecordBatch]:
    """Yield one row per file as LISTING, in no particular order, for any source but a manifest.

    own: places of own outputs, which are left out if they lie in the source. label_column: of Parquet, as in
    `listing.find_label_column`.

    Rows with `ignored`: names of `storage.ignored`, folders that may not be read, own outputs, second paths of a file;
    in archives also symbolic links and members that a later one replaces. Memory grows with the number of links
    alone. Raises UserError for a source that cannot be listed to its end.
    """
    place = absolute(source)
    match source_kind(source):
        case "file":
            return iter([_list_one(place)])
        case "folder":
            return _with_remark(folders.list_folder(place, own), source)
        case "glob":
            return _with_remark(folders.list_glob(globs.parse_glob(place), own), source)
        case "tar":
            return _with_remark(list_tar(place), source)
        case "zip":
            return _with_remark(list_zip(place), source)
        case "parquet" | "shards" | "idx" as kind:
            return _list_containers(place, kind, own, label_column)
        case "manifest":
            raise UserError(f"{source}: a manifest, not images. Give the folder of its images.")


def list_file(source: str) -> pa.RecordBatch | None:
    """List a file that its name does not make a list, table or archive, whatever its content. None if it is none."""
    place = absolute(source)
    there = facts_if_there(place) if suffix_kind(place) is None else None
    return _list_one(place) if there and there["type"] == "file" else None


def _list_one(place: str) -> pa.RecordBatch:
    """List a single file, without a label."""
    name, found = printable(place.rpartition("/")[2]), facts(place)
    file = {"uri": printable(place), "path": name, "size": found["size"], "modified": found["modified"]}
    return record_batch(1, file | {"ignored": False})


def _is_empty(source: str, kind: Kind) -> bool:
    match kind:
        case "manifest":
            return False
        case "tar" | "zip":
            return not holds_files(absolute(source), kind)
        case "folder":  # its first file alone: a batch of a listing has thousands
            return next(folders.walk(absolute(source)), None) is None
        case "glob":
            glob = globs.parse_glob(absolute(source))
            return next(folders.walk(glob.folder, glob), None) is None
        case _:
            return next(list_source(source, label_column=NO_LABELS), None) is None


def _with_remark(batches: Iterator[pa.RecordBatch], source: str) -> Iterator[pa.RecordBatch]:
    """Yield the batches; then say which files are archives or tables, for nothing opens those among images."""
    nested: list[str] = []
    for batch in batches:
        found = pc.and_not(pc.match_substring_regex(batch["path"], _CONTAINER), batch["ignored"])
        nested += batch["path"].filter(found).to_pylist()
        yield batch
    if nested:
        log.warning(
            "%s: archives and tables among its files are not opened: %s. Give each as a source of its own",
            printable(source), some_of(sorted(nested), 3),
        )  # fmt: skip


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
    """Return the kind of a folder. It is that of its tables, if there is one kind and no image by its name."""
    kinds: set[Kind] = set()
    first = ""
    for uri, path, size, _ in folders.walk(folder):
        if size is not None and not is_ignored(path):
            kind = _table_kind(path)
            if kind is None and _may_be_image(path):
                return "folder"
            if kind is not None:
                kinds.add(kind)
                first = min(first or uri, uri)  # folders are walked in no order
    if kinds == {"parquet"}:
        with _image_tables.open_table(first) as table:
            return "shards" if shard_files.is_shard(table) else "parquet"
    return "idx" if kinds == {"idx"} else "folder"


def _table_kind(path: str) -> Literal["parquet", "idx"] | None:
    name = path.rpartition("/")[2]
    kind = "idx" if _idx.is_labels(name) else suffix_kind(name)
    return kind if kind in ("parquet", "idx") else None


def _may_be_image(path: str) -> bool:
    _, dot, suffix = path.rpartition("/")[2].rpartition(".")
    return not dot or suffix.isdecimal() or _IMAGES.fullmatch(suffix) is not None


def _list_containers(
    place: str, kind: Kind, own: Collection[str], label_column: str | None
) -> Iterator[pa.RecordBatch]:
    """List Parquet, shards or IDX: a file, or all files of a folder, whose others are ignored rows."""
    ways: dict[str, Callable[[str, str], Iterator[pa.RecordBatch]]] = {
        "parquet": partial(_image_tables.list_table, label_column=label_column),
        "shards": shard_files.list_shard,
        "idx": _idx.list_images,
    }
    list_file = ways[kind]
    if facts(place)["type"] == "file":
        yield from list_file(place, place.rpartition("/")[2])
        return
    tables, others = [], []
    for uri, path, size, modified in folders.walk(place, own=own):
        uri, path = printable(uri), printable(path)
        if size is None or is_ignored(path) or _idx.is_labels(path) or _table_kind(path) is None:
            label = None if size is None else top_folder(path)
            file = {"uri": uri, "path": path, "size": size or 0, "modified": modified, "label": label, "ignored": True}
            yield record_batch(1, file)
            if size is not None and not is_ignored(path) and not _idx.is_labels(path):
                others.append(path)
        else:
            tables.append((uri, path, size, modified))
    copies = _idx.find_copies([uri for uri, *_ in tables]) if kind == "idx" else {}
    for uri, path, size, modified in tables:
        if uri in copies:
            file = {"uri": uri, "path": path, "size": size, "modified": modified, "ignored": True}
            yield record_batch(1, file)
        else:
            yield from list_file(uri, path)
    if others:
        log.warning("%s: files beside the tables are left out: %s", printable(place), some_of(sorted(others), 3))
    for copy, kept in copies.items():
        log.info("scan        %s holds the same images as %s: read once", copy, kept)
