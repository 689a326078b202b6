"""CVAT: labels for a task and predicted tags; its exports "CVAT for images", Datumaro and ImageNet.

The forms are those of docs.cvat.ai: xml_format (version 1.1), format-datumaro and format-imagenet. Only tags are read.
A tag with the source `auto` is a model's, and not an answer.
"""

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from resnet_core.annotations.people import Answer, one_class
from resnet_core.errors import UserError

TOOL = "CVAT"
_SHAPES = frozenset(("box", "polygon", "polyline", "points", "cuboid", "ellipse", "mask", "skeleton"))
_NO_LABEL = "no_label"  # ImageNet's folder of images without tags
_LINE = re.compile(r'(?:"(?P<quoted>.*)"|(?P<plain>\S+))(?P<places>(?: \d+)*)')
# XML 1.0 has no way to write these.
_UNWRITABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def unwritable(names: Sequence[str]) -> list[str]:
    """Return the names that no XML can hold: those with control characters."""
    return [name for name in names if _UNWRITABLE.search(name)]


def labels(classes: Sequence[str]) -> str:
    """Return the labels of a task, for the tab *Raw* of its constructor."""
    return json.dumps([{"name": name, "type": "tag", "attributes": []} for name in classes], indent=2) + "\n"


def annotations(files: Sequence[tuple[str, int, int, str]], classes: Sequence[str]) -> str:
    """Return predictions as "CVAT for images 1.1": tags with the source `auto`. files: name, width, height, label."""
    names = "".join(f"<label><name>{_escaped(name)}</name><type>tag</type></label>" for name in classes)
    head = f"<version>1.1</version>\n<meta><task><labels>{names}</labels></task></meta>\n"
    images = "".join(
        f'<image id="{number}" name={_quoted(name)} width="{width}" height="{height}">'
        f'<tag label={_quoted(label)} source="auto"/></image>\n'
        for number, (name, width, height, label) in enumerate(files)
    )
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n{head}{images}</annotations>\n'


_BLANKS = {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"}


def _quoted(text: str) -> str:
    return quoteattr(text, _BLANKS)


def _escaped(text: str) -> str:
    return escape(text, _BLANKS)


def read_xml(data: bytes, place: str) -> Iterator[Answer] | None:
    """Return the answers of "CVAT for images"; None for other XML. Raises UserError for what is damaged."""
    reader = _Reader(place)
    try:
        reader.parser.Parse(data, True)
    except expat.ExpatError as error:
        raise UserError(f"{place}: not whole XML ({error}). Export it again.") from None
    if reader.root != "annotations":
        return None
    if not reader.images:
        raise UserError(f"{place}: it names no image. Export it as `CVAT for images 1.1`.")
    if reader.shapes and not any(tags for _, tags in reader.images):
        raise UserError(f"{place}: it holds shapes and no tags, and a class is a tag. Tag the images there.")
    return reader.answers()


class _Reader:
    """The images of the XML with their tags, each a label and its source."""

    def __init__(self, place: str) -> None:
        self.place, self.root, self.shapes, self.dumped = place, "", 0, ""
        self.images: list[tuple[str, list[tuple[str, str]]]] = []
        self._text: list[str] | None = None
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler, self.parser.EndElementHandler = self._begin, self._end
        self.parser.CharacterDataHandler = lambda text: self._text.append(text) if self._text is not None else None
        self.parser.StartDoctypeDeclHandler = self._refuse

    def _refuse(self, *_: Any) -> NoReturn:
        raise UserError(f"{self.place}: has a document type, which no export has. Export it again.")

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        self.root = self.root or name
        if name == "image" and "name" in attributes:
            self.images.append((attributes["name"], []))
        elif name == "tag" and self.images and "label" in attributes:
            self.images[-1][1].append((attributes["label"], attributes.get("source", "manual")))
        elif name in _SHAPES:
            self.shapes += 1
        elif name == "dumped":
            self._text = []

    def _end(self, name: str) -> None:
        if name == "dumped" and self._text is not None:
            self.dumped, self._text = "".join(self._text).strip(), None

    def answers(self) -> Iterator[Answer]:
        others = _others(self.dumped)
        for name, tags in self.images:
            by_people = [label for label, source in tags if source != "auto"]
            yield Answer(name, one_class(by_people, self.place, name), others=others)


def _others(dumped: str = "") -> dict[str, str]:
    """Return the columns beside path and label: the source, and the time of the export as ISO 8601."""
    try:
        when = datetime.fromisoformat(dumped)
    except ValueError:
        return {"source": TOOL}
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    return {"source": TOOL, "corrected_at": f"{when:%Y-%m-%dT%H:%M:%S}.000Z"}


def is_datumaro(content: Any) -> bool:
    return isinstance(content, dict) and {"items", "categories"} <= content.keys()


def read_datumaro(content: Any, place: str) -> Iterator[Answer]:
    """Yield the answers of a Datumaro file."""
    names = [label["name"] for label in content["categories"]["label"]["labels"]]
    kinds: set[str] = set()
    labelled = 0
    for item in content["items"]:
        media = item.get("image") or item.get("media") or {}
        path = media.get("path") or item["id"]
        kinds |= {each["type"] for each in item["annotations"]}
        given = [names[each["label_id"]] for each in item["annotations"] if each["type"] == "label"]
        labelled += len(given)
        yield Answer(path, one_class(given, place, path), others=_others())
    if kinds and not labelled:
        raise UserError(f"{place}: it holds {', '.join(sorted(kinds))} and no labels. Tag the images there.")


def read_imagenet(lists: dict[str, str], synsets: str, place: str) -> Iterator[Answer]:
    """Yield the answers of ImageNet's lists without images: a name and the place of its class in a line."""
    names = synsets.splitlines()
    for member, text in lists.items():
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            found = _LINE.fullmatch(line.strip())
            places = list(map(int, found["places"].split())) if found else [-1]
            if found is None or any(not 0 <= each < len(names) for each in places):
                raise UserError(
                    f"{place}: {member}: line {number} is not a name and the place of a class. Export it again."
                )
            path = found["quoted"] if found["quoted"] is not None else found["plain"]
            yield Answer(path, one_class([names[each] for each in places], place, path), others=_others())


def read_folders(paths: Sequence[str]) -> Iterator[Answer]:
    """Yield the answers of ImageNet's folders with images: the folder is the class.

    If all names begin with their folder's, as in CVAT's exports, the export has put it there.
    """
    parts = [path.split("/") for path in paths]
    fronted = all(name.startswith(f"{folder}_") for folder, name in parts)
    for folder, name in parts:
        own = name.removeprefix(f"{folder}_") if fronted else name
        yield Answer(own, None if folder == _NO_LABEL else folder, others=_others())
