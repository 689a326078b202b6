"""`grayline report`: one version as one HTML file that needs nothing else, no network and no script."""

import base64
import io
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup
from PIL import Image
from upath import UPath

from tasks.report import charts as report_curves
from tasks.report import sections as report_sections
from tasks.report import story as report_story
from tasks.report.pages import environment, own, write_page
from tasks.report.parts import Parts, read_parts
from tasks.report.words import between, file_name, listed, moment, number, percent, title
from tasks.values import ModelVersion

_SAID_HERE = ("Gate", "Quality")  # parts of the version's card
_NO_HEADINGS = '<table>\n<thead>\n<tr>\n<th scope="col"></th>\n<th scope="col"></th>\n</tr>\n</thead>'
_TILES = ("accuracy", "macro_f1", "roc_auc", "calibration_error")
KINDS = {  # their heading, what to look for, and how large they are shown
    "confident error": ("Confident errors", "Wrong, and sure of it: a wrong label, or what the network misses.", ""),
    "most uncertain": ("Most uncertain", "Where the two best classes are closest.", "medium"),
    "sample": ("Samples of each class", "Taken without choosing.", "compact"),
}
_STRIP = 10  # pictures at the head of the page
_SMALL = 64  # pixels; smaller pictures are enlarged without smoothing, so that their pixels show


def write_report(tracking_uri: str, model: ModelVersion, to: UPath) -> int:
    """Write the report of a version; its size in bytes. Raises UserError where nothing can be written."""
    return write_page(to, render(read_parts(tracking_uri, model)))


def render(parts: Parts, made: datetime | None = None) -> str:
    """The page. Whatever comes from data (names, reasons, paths) is escaped."""
    sections: dict[str, Any] = {
        "gate": report_sections.gate(parts),
        "metrics": report_sections.metrics(parts),
        "confusion": report_sections.confusion(parts),
        "calibration": report_curves.calibration(parts),
        "review": report_sections.review(parts),
        "slices": report_sections.slices(parts),
        "sizes": report_sections.sizes(parts),
        "gallery": gallery(parts),
        "curves": report_curves.curves(parts),
        "card": card(parts),
        "lineage": report_story.lineage(parts),
        "history": report_story.history(parts),
    }
    made_with = environment()
    made_with.filters["svg"] = Markup  # our own drawings, whose texts are escaped
    return made_with.get_template("report.html").render(
        parts=parts,
        style=own("report.css"),
        verdict=report_story.verdict(parts),
        about=report_story.description(parts),
        tiles=_tiles(parts),
        short=report_story.in_short(parts, sections),
        missing=[(title(name), why) for name, why in report_story.left_out(parts, sections)],
        made=moment(made or datetime.now(UTC)),
        **sections,
    )


def _tiles(parts: Parts) -> list[dict[str, str]]:
    found = (parts.metrics or {}).get("metrics", {})
    return [
        {"name": title(name), "value": number(name, found[name].get("value")), "between": between(name, found[name])}
        for name in _TILES
        if name in found
    ]


def gallery(parts: Parts) -> dict[str, Any] | None:
    """Groups of items with their pictures inside; an item whose picture is missing is left out."""
    items = [item for item in (parts.gallery or {}).get("items", []) if item.get("image") in parts.pictures]
    if not items:
        return None
    groups = []
    for kind, (name, about, size) in KINDS.items():
        shown = [_gallery_item(item, parts.pictures) for item in items if item["kind"] == kind]
        if shown:
            groups.append({"kind": kind, "name": name, "about": about, "size": size, "rows": shown})
    return {
        "lead": _gallery_lead(parts, sum(item["kind"] == "confident error" for item in items)),
        "note": _gallery_note(parts.gallery or {}),
        "groups": groups,
        "strip": _one_of_each(groups),
    }


def _gallery_note(found: Mapping[str, Any]) -> str:
    """How heat and neighbours were found."""
    layer, looked_at = found.get("layer"), found.get("looked_at")
    heat = f"Heat is Grad-CAM of the predicted class, at {layer}." if layer else ""
    near = f"The nearest are of {looked_at:,} training images, by the cosine of their embeddings." if looked_at else ""
    return " ".join(filter(None, [heat, near]))


def _gallery_lead(parts: Parts, shown: int) -> str:
    """How many errors are shown of how many there are."""
    counts = ((parts.metrics or {}).get("confusion") or {}).get("counts") or []
    errors = sum(map(sum, counts)) - sum(row[k] for k, row in enumerate(counts))
    if not shown:
        return "Held-out images, and where the network looked in each."
    if shown >= errors:
        return (
            f"All {shown} errors, and where the network looked in each."
            if shown > 1
            else "The only error, and where the network looked in it."
        )
    return f"The {shown} most confident of {errors:,} errors, and where the network looked in each."


def _one_of_each(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A sample of each of the first classes, for the head of the page."""
    found: dict[str, dict[str, Any]] = {}
    for group in groups:
        for item in group["rows"] if group["kind"] == "sample" else []:
            found.setdefault(item["label"], item)
    return list(found.values())[:_STRIP]


def _gallery_item(item: Mapping[str, Any], pictures: Mapping[str, bytes]) -> dict[str, Any]:
    name = file_name(item["uri"])
    wrong = item["label"] != item["predicted"]
    said = f"{name}, labelled {item['label']}" + (f", taken for {item['predicted']}" if wrong else "")
    beside = item.get("neighbours", []) if item["kind"] != "sample" else []  # there is no room under a sample
    near = [_neighbour(one, pictures) for one in beside if one.get("image") in pictures]
    return {
        "file": name,
        "uri": item["uri"],
        "label": item["label"],
        "predicted": item["predicted"],
        "wrong": wrong,
        "confidence": _confident(item["confidence"]),
        "image": embedded(pictures[item["image"]], said),
        "heat": embedded(
            pictures.get(item.get("heat", "")), f"Grad-CAM heat over {name}: where {item['predicted']} was seen"
        ),
        "neighbours": near,
        "alike": listed(
            [f"{count} are {label}" for label, count in Counter(one["label"] for one in near).most_common()]
        ),
    }


def _confident(share: float) -> str:
    """In whole percent; what is nearly certain is not certain."""
    return ">99%" if 0.995 <= share < 1 else percent(share, 0)


def _neighbour(one: Mapping[str, Any], pictures: Mapping[str, bytes]) -> dict[str, Any]:
    said = f"Training image {file_name(one['uri'])}, labelled {one['label']}"
    image = embedded(pictures[one["image"]], said)
    return {"label": one["label"], "similarity": f"{one['similarity']:.3f}", "image": image}


def embedded(content: bytes | None, alt: str) -> dict[str, Any] | None:
    """A picture as a data URI, with its size in pixels so that the page does not move while it loads."""
    if content is None:
        return None
    with Image.open(io.BytesIO(content)) as image:
        width, height, kind = image.width, image.height, Image.MIME[image.format or "WEBP"]
    uri = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return {"uri": uri, "width": width, "height": height, "alt": alt, "small": max(width, height) < _SMALL}


def card(parts: Parts) -> list[tuple[str, Markup]] | None:
    """The parts of the version's description that the report does not say itself, among them what people have
    written of the model: Markdown, in which HTML is text and nothing is fetched."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink"])
    found = []
    for part in re.split(r"^## ", parts.description, flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        if heading.strip() not in _SAID_HERE and text.strip():
            html = markdown.render(text).replace("<th>", '<th scope="col">').replace(_NO_HEADINGS, "<table>")
            found.append((heading.strip(), Markup(html)))
    return found or None
