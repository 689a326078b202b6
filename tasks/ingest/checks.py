"""Checks: tonight's data against the last accepted night's, on a page with plots and samples.

`summary.json`, written last, says whether the night was accepted; the next night is compared with the newest
accepted one.
"""

import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from upath import UPath

from resnet_core.catalog.placement import Placement
from resnet_core.drift.checks import Finding, check, check_quarantine, quarantine
from resnet_core.drift.summary import Summary
from resnet_core.errors import DataCheckError, plural
from resnet_core.images.preprocessing import Gray
from resnet_core.plotting.drift_plots import compare_nights
from resnet_core.plotting.sheets import PAIRS, ConflictPair, conflict_sheet, contact_sheet
from resnet_core.storage.files import DamagedFileError, read_json, write_text, write_whole
from tasks.artifacts import Markdown, markdown_table, picture, plain, publish_page
from tasks.dataset import Dataset
from tasks.ingest import placement
from tasks.store import COMPARISON, CONFLICTS, LOOK_ALIKES, SAMPLES, SUMMARY, own_files
from tasks.values import Catalog, DataReport
from tasks.workspace import Workspace

log = logging.getLogger("grayline")


@dataclass(frozen=True)
class Evidence:
    """The facts that the checks look at. `now` sums up tonight's images, `last` those of the last accepted night,
    `new` those that came since. `samples`: pixels uint8 [H, W] of some images of each class."""

    now: Summary
    last: Summary | None
    new: Summary | None
    samples: Mapping[str, Sequence[Gray]]
    conflicts: Sequence[ConflictPair]
    look_alikes: Sequence[ConflictPair] = ()  # held-out images, each beside the training image that it looks like


@task(cache_policy=NO_CACHE)  # the arrays would be hashed for a key that nobody asks for
def check_data(evidence: Evidence, catalog: Catalog, dataset: Dataset, here: Workspace) -> DataReport:
    """Write the night's pictures and summary, and publish the page; no picture of an image of encrypted data.

    Raises DataCheckError when a check says so, after everything is written and shown; such a night is not accepted.
    """
    name, now, folder = dataset.name, evidence.now, here.store.checks(dataset.name) / f"{catalog.version:06}"
    findings = (quarantine(now, dataset.quarantine_limit), *check(now, evidence.last, dataset.checks, evidence.new))
    placed = catalog.placement
    if placed and (split := placement.check(placed, name, dataset.checks.split)):
        findings += (split,)
    pictures = {COMPARISON: plot(now, evidence.last, evidence.new)}
    if not dataset.encrypt and evidence.samples:
        pictures[SAMPLES] = contact_sheet(evidence.samples, f"{name}: samples of each class")
    if not dataset.encrypt and evidence.conflicts:
        pictures[CONFLICTS] = conflict_sheet(evidence.conflicts)
    if not dataset.encrypt and evidence.look_alikes:
        pictures[LOOK_ALIKES] = conflict_sheet(evidence.look_alikes)
    _write_pictures(folder, pictures)
    for finding in findings:
        if finding.action != "ok":
            log.warning("checks      %s: %s", finding.action, finding)
    page = markdown(name, findings, evidence, pictures)
    if placed:
        page += _placement_part(placed, pictures)
    publish_page(page, key="data-checks", description=headline(name, findings))
    failed = [finding for finding in findings if finding.action == "fail"]
    _write_summary(folder, now, findings, accepted=not failed)
    check_quarantine(now, dataset.quarantine_limit)
    if failed:
        raise DataCheckError(
            f"{name}: " + "; ".join(str(finding) for finding in failed) + f". See {folder}. Mend the source or, "
            "if the change is meant, set `action: warn` or a wider limit for it under `checks:` in the data set file."
        )
    return DataReport(folder, findings)


def last_accepted(nights: UPath, version: int) -> tuple[str, Summary] | None:
    """Return the newest accepted night before `version`, as its name and its summary; None before the first.

    nights: a folder with a folder for each night, named by the version of the catalog.
    """
    for name in sorted((path.name for path in own_files(nights)), reverse=True):
        if not name.isdecimal() or int(name) >= version:
            continue
        path = nights / name / SUMMARY
        try:
            found = read_json(path)
        except FileNotFoundError:  # that night was ended before its checks
            continue
        except DamagedFileError as error:
            log.warning("checks      %s: an earlier night is compared with instead", error)
            continue
        if found["accepted"]:
            return name, Summary.from_dict(found["summary"])
    return None


def _write_summary(folder: UPath, now: Summary, findings: Sequence[Finding], *, accepted: bool) -> None:
    content: dict[str, Any] = {
        "accepted": accepted,
        "findings": [asdict(finding) for finding in findings],
        "summary": now.to_dict(),
    }
    write_text(folder / SUMMARY, json.dumps(content, ensure_ascii=False))


def _write_pictures(folder: UPath, pictures: Mapping[str, bytes]) -> None:
    """Write the pictures; remove those that an earlier run of the same night has left."""
    for name, content in pictures.items():
        with write_whole(folder / name) as draft:
            draft.write_bytes(content)
    for name in {COMPARISON, SAMPLES, CONFLICTS, LOOK_ALIKES} - set(pictures):
        if (folder / name).exists():
            (folder / name).unlink()


def plot(now: Summary, last: Summary | None, new: Summary | None) -> bytes:
    buffer = io.BytesIO()
    compare_nights(now, last, new).savefig(buffer, format="png")
    return buffer.getvalue()


def headline(dataset: str, findings: Sequence[Finding]) -> str:
    counts = {word: sum(finding.action == word for finding in findings) for word in ("fail", "warn")}
    if counts["fail"]:
        return f"{dataset}: not accepted, {counts['fail']} of {plural(len(findings), 'check')} failed"
    if counts["warn"]:
        return f"{dataset}: accepted with {counts['warn']} warning{'s' * (counts['warn'] > 1)}"
    return f"{dataset}: nothing to report"


def markdown(dataset: str, findings: Sequence[Finding], evidence: Evidence, pictures: Mapping[str, bytes]) -> str:
    """Return the page. Pictures stand in it as data URIs, which both of Prefect's UIs show in Markdown.

    An image artifact would print the whole URI below its picture.
    """
    now, last, conflicts = evidence.now, evidence.last, evidence.conflicts
    against = "against the last accepted night" if last else "the first night: nothing to hold it against"
    page = [f"# {headline(dataset, findings)}", _findings_table(findings), f"## {plural(now.ok, 'image')}, {against}"]
    page.append(picture("Class shares and distributions", pictures[COMPARISON]))
    if now.reasons:
        page += ["## In quarantine", _reasons_table(now)]
    if conflicts:
        page += ["## One image under two labels", _conflicts_table(conflicts)]
    if CONFLICTS in pictures:
        page.append(picture("The two images of each pair", pictures[CONFLICTS]))
    if SAMPLES in pictures:
        page += ["## Samples", picture("Samples of each class", pictures[SAMPLES])]
    return "\n\n".join(page) + "\n"


def _placement_part(placed: Placement, pictures: Mapping[str, bytes]) -> str:
    """Return the part of the page that says what is where."""
    part = ["", "## Train and test", placement.table(placed)]
    part.append("\n".join(f"- {plain(line)}" for line in placement.lines(placed)))
    if LOOK_ALIKES in pictures:
        part.append(picture("Test images beside the training images that they look like", pictures[LOOK_ALIKES]))
    return "\n\n".join(part) + "\n"


def _findings_table(findings: Sequence[Finding]) -> str:
    words = {"ok": "ok", "warn": Markdown("**warning**"), "fail": Markdown("**failed**")}
    rows = []
    for finding in findings:
        found = ", ".join(filter(None, [finding.found, finding.detail]))
        rows.append((finding.name, words[finding.action], found, finding.wanted))
    return markdown_table(("check", "", "found", "wanted"), rows)


def _reasons_table(now: Summary) -> str:
    rows = ((reason, f"{count:,}", now.examples.get(reason, "")) for reason, count in now.frequent_reasons())
    return markdown_table(("reason", "images", "for example"), rows, numbers=["images"])


def _conflicts_table(conflicts: Sequence[ConflictPair]) -> str:
    rows = []
    for number, pair in enumerate(conflicts[:PAIRS], 1):
        rows.append((str(number), pair.label_a, pair.uri_a))
        rows.append(("", pair.label_b, pair.uri_b))
    more = f"\n\nand {len(conflicts) - PAIRS:,} more" if len(conflicts) > PAIRS else ""
    return markdown_table(("", "label", "image"), rows) + more
