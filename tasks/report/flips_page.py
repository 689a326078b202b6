"""Flips as a page: images that two versions decide on otherwise, with both answers; for Prefect, MLflow and by hand."""

import base64
from dataclasses import replace
from typing import Any

from prefect import task

from resnet_core.errors import plural
from resnet_core.images.limits import Limits
from resnet_core.plotting.thumbnails import LOSSLESS, Thumbnail, thumbnails
from resnet_core.reading.pool import end_idle
from tasks.artifacts import Markdown, markdown_table, plain, publish_page
from tasks.registry.runs import client, living_run
from tasks.report.pages import environment, image, own
from tasks.report.words import file_name, sure
from tasks.values import CERTAIN, Decision, Flip, Flips
from tasks.workspace import Workspace

_FEW, _SMALL, _LARGE = 12, 128, 224  # flips in Markdown, the side of their pictures, and of the page's, in pixels
_KINDS = 20  # in a table
NO_PICTURES = "The images are of encrypted data: no picture is made of them."


@task
def publish_flips(decision: Decision, here: Workspace) -> None:
    """Publish Prefect's page, and log the page of all flips to the new version's run, before anything is promoted.

    Both are there already if an earlier night has found the flips.
    """
    against, found = decision.against, decision.flips
    if against is None or against.again or found is None or not found.images:
        return
    publish_page(f"# {found.new}\n\n{markdown(found, here.limits)}", key="flips", description=found.in_words())
    if run_id := living_run(here.tracking_uri, found.new.run_id):
        client(here.tracking_uri).log_text(run_id, render(found, here.limits), "flips/flips.html")


def markdown(found: Flips, limits: Limits) -> str:
    """Return the section of the night's page: flips by class and slice, and the first ones with their pictures."""
    old, new = f"version {found.old.version}", f"version {found.new.version}"
    texts = [f"## Decisions that flip\n\n{plain(found.in_words())}."]
    if not found.count:
        return texts[0]
    few = tuple(replace(flip, side=None) for flip in found.first[:_FEW])  # small images are enlarged
    made = {} if found.secret else _pictures(few, limits, _SMALL)
    rows = (
        (_picture(made.get(number)), _answer(flip.old), _answer(flip.new), flip.uri) for number, flip in enumerate(few)
    )
    texts.append(f"The first {_FEW}: " * (found.count > _FEW) + f"those of which {old} was surest come first.")
    texts += [NO_PICTURES] if found.secret else []
    kinds = [(before, after, f"{count:,}") for before, after, count in found.kinds[:_KINDS]]
    parts = [(each.name, f"{each.images:,}", f"{each.flips:,}", "more" * each.more) for each in found.parts]
    texts += [
        markdown_table(("image", old, new, "file"), rows),
        markdown_table((old, new, "images"), kinds, numbers=("images",)),
        markdown_table(("class or slice", "images", "flips", "than elsewhere"), parts, numbers=("images", "flips")),
    ]
    return "\n\n".join(texts)


def _answer(answer: tuple[str, float]) -> str:
    return f"{answer[0]} {sure(answer[1])}"


def _picture(made: Thumbnail | None) -> Markdown:
    if made is None or not made.webp:
        return Markdown("")
    return Markdown(f"![flip](data:image/webp;base64,{base64.b64encode(made.webp).decode()})")


def _pictures(flips: tuple[Flip, ...], limits: Limits, most: int) -> dict[int, Thumbnail]:
    """Return pictures by the places of the flips."""
    made = dict(thumbnails([flip.uri for flip in flips], [flip.side for flip in flips], limits, most))
    end_idle()
    return made


def render(found: Flips, limits: Limits) -> str:
    """Return the page. Values from data are escaped."""
    made = {} if found.secret else _pictures(found.first, limits, _LARGE)
    shots = [_shot(flip, made.get(number)) for number, flip in enumerate(found.first)]
    groups = [
        (f"Version {found.old.version} was {CERTAIN:.0%} sure", [shot for shot in shots if shot["certain"]]),
        ("Others", [shot for shot in shots if not shot["certain"]]),
    ]
    template = environment().get_template("flips.html")
    return template.render(
        found=found,
        lead=f"{len(shots):,} of " * (found.count > len(shots))
        + f"{plural(found.count, 'flip')}, those first of which the old version was surest.",
        groups=[group for group in groups if group[1]],
        no_pictures=NO_PICTURES if found.secret else "",
        style=own("report.css") + own("gallery.css"),
    )


def _shot(flip: Flip, made: Thumbnail | None) -> dict[str, Any]:
    name = file_name(flip.uri)
    shown = f"{name}, {_answer(flip.old)}, now {_answer(flip.new)}"
    return {
        "name": name,
        "uri": flip.uri,
        "certain": flip.old[1] >= CERTAIN,
        "answers": [(label, sure(confidence)) for label, confidence in (flip.old, flip.new)],
        "reason": made.reason if made else None,
        "image": image(made.webp, "image/webp", (made.width, made.height), shown, LOSSLESS)
        if made and made.webp
        else None,
    }
