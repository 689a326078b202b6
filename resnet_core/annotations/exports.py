"""Reading: which tool has written a file of labels, and its rows as a manifest.

file                          is read as
.csv .tsv                     Label Studio's, if it has a column `annotation_id`; else a manifest
.json .jsonl                  Label Studio's JSON or JSON_MIN, Datumaro's, or Hugging Face's metadata
.xml                          CVAT for images
.zip                          CVAT's: annotations.xml, Datumaro's annotations/, ImageNet's lists or folders
.tar and compressed           WebDataset's
any other                     a manifest
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from upath import UPath

from resnet_core.annotations import _webdataset, cvat, label_studio
from resnet_core.annotations.people import Annotators, Answer, settled
from resnet_core.errors import UserError
from resnet_core.policy import check_members, parse_json, policy
from resnet_core.sources.fetch import open_files
from resnet_core.sources.listing import LISTING, find_label_column, find_path_column
from resnet_core.sources.manifest import as_manifest, read_manifest, read_texts, without_secrets
from resnet_core.sources.source import list_source, suffix_kind
from resnet_core.storage.delimited import read_delimited
from resnet_core.storage.locations import open_stream

log = logging.getLogger("grayline")

_FORMS = (".json", ".jsonl", ".xml", ".zip")
ENDINGS = (".csv", ".tsv", ".parquet", *_FORMS, ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
_MARK = b"annotation_id"
_HEAD = 64 * 1024  # bytes in which a header is looked for
# A file made for labelling says of which bytes it is: `queue_file`.
_BYTES = re.compile(r"\.sha256-([0-9a-f]{64})(?=\.|$)")


@dataclass(frozen=True)
class Labels:
    """A manifest's rows. named: the paths are those of a tool. uris: where it holds the images itself.

    folders: the labels are folders of an archive, as any source has them.
    """

    rows: pa.Table
    named: bool = False
    uris: tuple[str, ...] = ()
    folders: bool = False


def queue_file(stem: str, image_id: str, ending: str) -> str:
    """Return the name of a copy of an image that a tool shows: its export leads back to the bytes."""
    return f"{stem}.sha256-{image_id}{ending}"


def read_labels(place: UPath, label_column: str | None = None, annotators: Annotators = "agree") -> Labels:
    """Read a file of labels. Raises UserError for what is none or damaged, and for answers that differ."""
    if (found := labels_of(place, label_column, annotators)) is None:
        raise UserError(
            f"{place}: not an export of Label Studio or CVAT, nor a WebDataset with .cls. Give one of them, or a "
            "table with path,label."
        )
    return found


def labels_of(place: UPath, label_column: str | None = None, annotators: Annotators = "agree") -> Labels | None:
    """Do the same for a file that may be something else. JSON, XML and archives without labels give None."""
    found = _read_export(place, label_column)
    if found is None:
        return None if _is_form(place) else Labels(read_manifest(place, label_column))
    answers = found.one_each(place, annotators)
    rows = as_manifest(place, [(_texts(answers), len(answers))] if answers else [])
    return Labels(rows, found.named, found.uris, found.folders)


def read_label_texts(
    place: UPath, label_column: str | None = None, annotators: Annotators = "agree"
) -> tuple[pa.Table, bool]:
    """Return every column of a file of labels as text, and whether its paths are those of a tool."""
    found = _read_export(place, label_column)
    if found is None:
        return read_texts(place, label_column), False
    return pa.table(_texts(found.one_each(place, annotators))), found.named


def _is_form(place: UPath) -> bool:
    """Return whether a file is of a kind that is never a manifest."""
    return place.suffix.lower() in _FORMS or suffix_kind(str(place)) == "tar"


@dataclass(frozen=True)
class _Found:
    """The answers of a tool's file, with the URIs of the images that it holds. The rest is as in `Labels`."""

    answers: Sequence[Answer]
    uris: tuple[str, ...] = ()
    folders: bool = False
    named: bool = True

    def one_each(self, place: UPath, annotators: Annotators) -> Sequence[Answer]:
        return self.answers if self.uris else settled(self.answers, str(place), annotators)


def _read_export(place: UPath, wanted: str | None) -> _Found | None:
    """Return the answers of a tool's file; None for a manifest or anything else."""
    name = str(place)
    ending = place.suffix.lower()
    try:
        if ending in (".csv", ".tsv"):
            return _sure(name, lambda: _read_table(name, wanted))
        if ending == ".json":
            return _sure(name, lambda: _read_json(_read_whole(name), name, wanted))
        if ending == ".jsonl":
            found = _sure(name, lambda: _read_metadata(_read_whole(name), name, wanted))
            return found and replace(found, named=False)
        if ending == ".xml":
            return _sure(name, lambda: cvat.read_xml(_read_whole(name), name))
        if ending == ".zip":
            return _sure(name, lambda: _read_zip(name)) or _read_folders(name)
        if suffix_kind(name) == "tar":
            samples = _webdataset.read(name)
            if samples is not None:
                return _Found([each for each, _ in samples], tuple(uri for _, uri in samples), named=False)
    except FileNotFoundError:
        raise UserError(f"{name}: there is no such file. Correct `labels:` or `corrections:`.") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error}). Allow it, or fetch it again.") from None
    return None


def _sure(place: str, read: Callable[[], Iterable[Answer] | None]) -> _Found | None:
    """Return a tool's answers. Raises UserError for a file that has not the form that it begins with."""
    try:
        answers = read()
        return None if answers is None else _Found(list(answers))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"{place}: not a whole export ({what}). Export it again.") from None


def _read_whole(place: str) -> bytes:
    most = policy().unpacked_bytes
    with open_stream(place) as file:
        data = file.read(min(most, 2**31 - 1) + 1)
    if len(data) > min(most, 2**31 - 1):
        raise UserError(f"{place}: is larger than {min(most, 2**31 - 1):,} bytes. Export it in parts.")
    return data


def _read_table(place: str, wanted: str | None) -> Iterator[Answer] | None:
    with open_stream(place) as file:
        header = file.read(_HEAD).partition(b"\n")[0]
        if _MARK not in header or b"lead_time" not in header:
            return None
        columns, lines = read_delimited(file, place, (), (_MARK.decode(),))
        rows = [dict(zip(columns, cells, strict=True)) for _, cells in lines]
    return label_studio.read(rows, place, wanted) if rows else iter(())


def _read_json(text: bytes, place: str, wanted: str | None) -> Iterator[Answer] | None:
    content = parse_json(text)
    if cvat.is_datumaro(content):
        return cvat.read_datumaro(content, place)
    rows = [content] if isinstance(content, dict) else content
    if not isinstance(rows, list) or not all(map(label_studio.is_export, rows)):
        return None
    check_members(place, len(rows))
    return label_studio.read(rows, place, wanted) if rows else iter(())


def _read_metadata(text: bytes, place: str, wanted: str | None) -> Iterator[Answer] | None:
    """Return the rows of Hugging Face's metadata.jsonl; None for other lines of JSON."""
    rows = [parse_json(line) for line in text.splitlines() if line.strip()]
    if not rows or not all(isinstance(row, dict) for row in rows):
        return None
    names = list(dict.fromkeys(name for row in rows for name in row))
    path, label = find_path_column(names, place), find_label_column(names, wanted, place)
    if path is None or label is None:
        return None
    return (
        Answer(
            str(row[path]), None if row.get(label) is None else str(row[label]),
            others={k: str(v) for k, v in row.items() if k not in (path, label) and isinstance(v, str | int | float)},
        )
        for row in rows
    )  # fmt: skip


def _read_folders(place: str) -> _Found | None:
    listed = (batch.filter(pc.invert(batch["ignored"])) for batch in list_source(place))
    paths = [path for batch in listed for path in batch["path"].to_pylist()]
    if not paths or not all(path.count("/") == 1 for path in paths):
        return None
    return _Found(list(cvat.read_folders(paths)), folders=True)


def _read_zip(place: str) -> Iterable[Answer] | None:
    """Return the answers of an archive of CVAT's that are not its folders; None for any other."""
    rows = [row for batch in list_source(place) for row in batch.to_pylist()]
    there = {row["path"]: row for row in rows}
    texts = [path for path in there if "/" not in path and path.endswith(".txt") and path != "synsets.txt"]
    datumaro = [path for path in there if re.fullmatch(r"annotations/[^/]+\.json", path)]
    if "annotations.xml" in there:
        (data,) = _members(place, [there["annotations.xml"]])
        return cvat.read_xml(data, place)
    if datumaro:
        parts = _members(place, [there[path] for path in datumaro])
        return [each for data in parts for each in cvat.read_datumaro(parse_json(data), place)]
    if "synsets.txt" in there:
        synsets, *lists = (data.decode() for data in _members(place, [there[path] for path in ("synsets.txt", *texts)]))
        return cvat.read_imagenet(dict(zip(texts, lists, strict=True)), synsets, place)
    return None


def _members(place: str, rows: list[dict[str, Any]]) -> list[bytes]:
    found = []
    for row, data in zip(rows, open_files(pa.Table.from_pylist(rows, LISTING)), strict=True):
        if isinstance(data, OSError):
            raise UserError(f"{place}: {row['path']} cannot be read ({data}). Export it again.")
        found.append(data)
    return found


def _texts(answers: Sequence[Answer]) -> dict[str, pa.Array]:
    """Return path, label and the other columns as text; the digest of a queue's file is its `image_id`."""
    others = [dict(each.others) for each in answers]
    for each, more in zip(answers, others, strict=True):
        if (mark := _BYTES.search(each.path)) and "image_id" not in more:
            more["image_id"] = mark[1]
    names = [name for name in dict.fromkeys(name for row in others for name in row) if name not in ("path", "label")]
    columns = {
        "path": [each.path for each in answers],
        "label": [each.label or None for each in answers],
        **{name: [row.get(name) for row in others] for name in names},
    }
    return {name: without_secrets(name, pa.array(texts, pa.string())) for name, texts in columns.items()}
