"""`grayline report`: a version as a single HTML file, without network and scripts."""

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

from resnet_core.errors import plural
from tasks.report import charts, sections, story
from tasks.report.pages import environment, image, own, write_page
from tasks.report.parts import Parts, read_parts
from tasks.report.words import between, file_name, listed, moment, number, sure, title, value_of
from tasks.values import ModelVersion

_SAID_HERE = ("Gate", "Quality")  # headings of the version's card that the report shows itself
_NO_HEADINGS = '<table>\n<thead>\n<tr>\n<th scope="col"></th>\n<th scope="col"></th>\n</tr>\n</thead>'
_TILES = ("accuracy", "macro_f1", "roc_auc", "calibration_error")
_KINDS = {  # heading, what to look for, CSS class for the size
    "confident error": (
        "Confident errors",
        "Wrong at high confidence: a wrong label or a gap in training.",
        "",
    ),
    "most uncertain": ("Most uncertain", "The two best classes are close.", "medium"),
    "sample": ("Samples of each class", "Taken in order, not chosen.", "compact"),
}
_STRIP = 10  # pictures at the head of the page
_SMALL = 64  # pixels; smaller pictures are enlarged without smoothing


def write_report(tracking_uri: str, model: ModelVersion, to: UPath) -> int:
    """Write the report of a version. Returns its size in bytes. Raises UserError for a place that cannot be written."""
    return write_page(to, render(read_parts(tracking_uri, model)))


def render(parts: Parts, made: datetime | None = None) -> str:
    """Return the page. Values from data (names, reasons, paths) are escaped."""
    content: dict[str, Any] = {
        "gate": sections.gate(parts),
        "metrics": sections.metrics(parts),
        "confusion": sections.confusion(parts),
        "calibration": charts.calibration(parts),
        "review": sections.review(parts),
        "slices": sections.slices(parts),
        "sizes": sections.sizes(parts),
        "gallery": gallery(parts),
        "look_alikes": _look_alikes(parts),
        "curves": charts.curves(parts),
        "card": card(parts),
        "lineage": story.lineage(parts),
        "history": story.history(parts),
    }
    made_with = environment()
    made_with.filters["svg"] = Markup  # drawings of this project, whose texts are escaped
    return made_with.get_template("report.html").render(
        parts=parts,
        style=own("report.css"),
        verdict=story.verdict(parts),
        about=story.description(parts),
        tiles=_tiles(parts),
        short=story.in_short(parts, content),
        missing=[(title(name), why) for name, why in story.left_out(parts, content)],
        made=moment(made or datetime.now(UTC)),
        **content,
    )


def _tiles(parts: Parts) -> list[dict[str, str]]:
    metrics = parts.metrics.get("metrics", {})
    return [
        {"name": title(name), "value": number(name, value_of(metrics[name])), "between": between(name, metrics[name])}
        for name in _TILES
        if name in metrics
    ]


def gallery(parts: Parts) -> dict[str, Any] | None:
    """Return groups of items with embedded pictures; items without their picture are left out."""
    items = [item for item in parts.gallery.get("items", []) if item.get("image") in parts.pictures]
    if not items:
        return None
    groups = []
    for kind, (name, about, size) in _KINDS.items():
        shown = [_gallery_item(item, parts.pictures) for item in items if item["kind"] == kind]
        if shown:
            groups.append({"kind": kind, "name": name, "about": about, "size": size, "rows": shown})
    return {
        "lead": _gallery_lead(parts, sum(item["kind"] == "confident error" for item in items)),
        "note": _gallery_note(parts.gallery),
        "groups": groups,
        "strip": _one_of_each(groups),
    }


def _gallery_note(gallery: Mapping[str, Any]) -> str:
    """Return how heat and neighbours are computed."""
    layer, looked_at = gallery.get("layer"), gallery.get("looked_at")
    way = gallery.get("way", "Grad-CAM")  # of earlier releases
    heat = f"Heat is {way} of the predicted class, at {layer}." if layer else ""
    near = (
        f"Neighbours are from {plural(looked_at, 'training image')}, by the cosine of their embeddings."
        if looked_at
        else ""
    )
    return " ".join(filter(None, [heat, near]))


def _gallery_lead(parts: Parts, shown: int) -> str:
    """Return how many errors are shown, and of how many."""
    counts = (parts.metrics.get("confusion") or {}).get("counts") or []
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
    """Return a sample of each of the first classes, for the head of the page."""
    samples: dict[str, dict[str, Any]] = {}
    for group in groups:
        for item in group["rows"] if group["kind"] == "sample" else []:
            samples.setdefault(item["label"], item)
    return list(samples.values())[:_STRIP]


def _gallery_item(item: Mapping[str, Any], pictures: Mapping[str, bytes]) -> dict[str, Any]:
    name = file_name(item["uri"])
    wrong = item["label"] != item["predicted"]
    alt = f"{name}, labelled {item['label']}" + (f", taken for {item['predicted']}" if wrong else "")
    beside = item.get("neighbours", []) if item["kind"] != "sample" else []  # samples are too small for neighbours
    near = [_neighbour(entry, pictures) for entry in beside if entry.get("image") in pictures]
    return {
        "file": name,
        "uri": item["uri"],
        "label": item["label"],
        "predicted": item["predicted"],
        "wrong": wrong,
        "confidence": sure(item["confidence"]),
        "image": _embed(pictures[item["image"]], alt),
        "heat": _embed(pictures.get(item.get("heat", "")), f"Heat over {name}: where {item['predicted']} was seen"),
        "neighbours": near,
        "alike": listed(
            [f"{count} are {label}" for label, count in Counter(entry["label"] for entry in near).most_common()]
        ),
    }


def _neighbour(entry: Mapping[str, Any], pictures: Mapping[str, bytes]) -> dict[str, Any]:
    alt = f"Training image {file_name(entry['uri'])}, labelled {entry['label']}"
    embedded = _embed(pictures[entry["image"]], alt)
    return {"label": entry["label"], "similarity": f"{entry['similarity']:.3f}", "image": embedded}


def _look_alikes(parts: Parts) -> dict[str, Any] | None:
    """Return the held-out images that look most like a training image, each beside it; None without any."""

    def side(where: str, of: Mapping[str, Any]) -> dict[str, Any]:
        name = file_name(of["uri"])
        return {"uri": of["uri"], "file": name, "image": _embed(parts.pictures[of["image"]], f"{where} {name}")}

    pairs = [
        {
            "label": pair["label"],
            "residual": f"{100 * pair['residual']:.2g}%",
            "images": [side("Test image", pair), side("Training image", pair["train"])],
        }
        for pair in parts.gallery.get("look_alikes", [])
        if {pair["image"], pair["train"]["image"]} <= parts.pictures.keys()
    ]
    if not pairs:
        return None
    count, images = parts.metrics.get("look_alikes") or len(pairs), parts.metrics.get("images", len(pairs))
    lead = f"{count:,} of {plural(images, 'held-out image')} look like a training image of their class."
    return {"lead": lead + f" The {len(pairs)} closest:" * (count > len(pairs)), "pairs": pairs}


def _embed(content: bytes | None, alt: str) -> dict[str, Any] | None:
    if content is None:
        return None
    with Image.open(io.BytesIO(content)) as picture:
        return image(content, Image.MIME[picture.format or "WEBP"], picture.size, alt, _SMALL)


def card(parts: Parts) -> list[tuple[str, Markup]] | None:
    """Return the sections of the version's description that the report does not show itself.

    People write in the description: HTML in its Markdown is text, and nothing is fetched.
    """
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "link", "autolink"])
    texts = []
    for part in re.split(r"^## ", parts.description, flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        if heading.strip() not in _SAID_HERE and text.strip():
            html = markdown.render(text).replace("<th>", '<th scope="col">').replace(_NO_HEADINGS, "<table>")
            texts.append((heading.strip(), Markup(html)))  # noqa: S704  the renderer escapes
    return texts or None
