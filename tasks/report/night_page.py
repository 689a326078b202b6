"""Page of a night for Prefect, in Markdown, and the same lines for the terminal."""

from dataclasses import dataclass

from prefect import task

from resnet_core.catalog.history import versions
from resnet_core.credentials import public
from resnet_core.errors import plural, some_of
from resnet_core.evaluation.evidence import Evidence
from resnet_core.evaluation.metrics import Interval
from tasks.artifacts import checks_table, markdown_table, plain, publish_page
from tasks.evaluation.page import counted as held_out
from tasks.ingest import placement
from tasks.registry.runs import client, living_run
from tasks.registry.versions import BEFORE, CHAMPION, by_alias, find_version
from tasks.report import flips_page
from tasks.store import Store
from tasks.values import DataReport, ModelVersion, Night
from tasks.workspace import Workspace

_SHOWN = ("accuracy", "macro_f1", "roc_auc")
_CLASSES = 6  # in the line of recalls, the lowest first


@dataclass(frozen=True)
class Before:
    """The champion before tonight's version, with the held-out metrics of its own evaluation."""

    version: str
    metrics: dict[str, float]


@task
def report_night(night: Night, here: Workspace) -> Night:
    """Publish the page as a Prefect artifact. Returns the night it was given."""
    before = champion_before(night, here.tracking_uri) if night.version else None
    changes = catalog_changes(night, here.store)
    page = markdown(night, before, changes, here.tracking_uri)
    if night.decision and (found := night.decision.flips):
        page += f"\n{flips_page.markdown(found, here.limits)}\n"
    publish_page(page, key="nightly-retrain", description=headline(night))
    return night


def markdown(night: Night, before: Before | None = None, changes: str = "", tracking_uri: str = "") -> str:
    """Return the page: on the first screen verdict, changes, gate and links, then a row for each stage."""
    parts = [f"# {headline(night)}", "\n".join(f"- {line}" for line in story(night, before, changes))]
    if night.decision and night.decision.checks:
        parts.append("## Gate\n\n" + checks_table(night.decision.checks))
    if before and night.evaluation:
        parts.append(_metrics_table(night, before))
    links = _links(night, tracking_uri)
    if links:
        parts.append("## Where to look\n\n" + "\n".join(f"- {line}" for line in links))
    stages = summary(night)
    parts.append("## Stages\n\n" + markdown_table(("stage", ""), stages))
    return "\n\n".join(parts) + "\n"


def story(night: Night, before: Before | None, changes: str) -> list[str]:
    """Return a few sentences: the gate's reason, accuracy, images, warnings of the data checks."""
    lines = []
    if night.decision and night.decision.checks:
        failed = [check for check in night.decision.checks if not check.passed]
        result = (
            f"{len(failed)} of {plural(len(night.decision.checks), 'check')} failed" if failed else "every check passed"
        )
        result += f"; version {before.version} stays the champion" if failed and before else ""
        lines.append(f"{result}: {plain(night.decision.reason)}")
    if night.evaluation:
        accuracy = night.evaluation.metrics["accuracy"]
        lines.append(held_out(night.evaluation, "accuracy") + _against(accuracy, before))
        if night.evaluation.worse:
            lines.append(f"**significantly worse than the rest**: {plain(', '.join(night.evaluation.worse))}")
        lines += [f"**missed**: {plain(text)}" for text in night.evaluation.missed]
    count = night.catalog.read
    read = f"{plural(count, 'image was', 'images were')} read" if count else "no image was new"
    lines.append("; ".join(filter(None, [read, changes, f"{night.catalog.ok:,} are good"])))
    warnings = "; ".join(plain(str(finding)) for finding in night.data.warnings)
    lines.append(f"**the data checks warn**: {warnings}" if warnings else "the data checks have nothing to report")
    return lines


def _against(accuracy: Interval, before: Before | None) -> str:
    if before is None or "accuracy" not in before.metrics:
        return ""
    return f", {accuracy.value - before.metrics['accuracy']:+.3f} against version {before.version}'s own"


def champion_before(night: Night, tracking_uri: str) -> Before | None:
    """Return the champion that tonight's version replaced or did not replace; None without one."""
    assert night.version is not None
    if night.decision and night.decision.promoted:
        tags = client(tracking_uri).get_model_version(night.version.name, night.version.version).tags
        number = tags.get(BEFORE)
        other = find_version(tracking_uri, night.version.name, number) if number else None
    else:
        other = by_alias(tracking_uri, night.version.name, CHAMPION)
    if other is None or other.version == night.version.version:
        return None
    return Before(other.version, _metrics_of(other, tracking_uri))


def _metrics_of(version: ModelVersion, tracking_uri: str) -> dict[str, float]:
    """Return the metrics of the version's own evaluation, without intervals."""
    run_id = living_run(tracking_uri, version.run_id, to_read=True)
    logged = client(tracking_uri).get_run(run_id).data.metrics if run_id else {}
    return {name: logged[f"test_{name}"] for name in _SHOWN if f"test_{name}" in logged}


def catalog_changes(night: Night, store: Store) -> str:
    """Return the changes of the catalog's newest version if this night read images, else an empty text."""
    if not night.catalog.read:
        return ""
    rows = versions(store.history(night.catalog.dataset)).to_pylist()
    last = next((row for row in rows if row["version"] == night.catalog.version), None)
    return ", ".join(f"{last[key]:,} {key}" for key in ("came", "went", "changed") if last[key]) if last else ""


def _metrics_table(night: Night, before: Before) -> str:
    """Compare the evaluations of both versions; unlike in the gate, their held-out images may differ."""
    assert night.evaluation is not None
    assert night.version is not None
    metrics = night.evaluation.metrics
    rows = (
        (name.replace("_", " "), metrics[name], f"{earlier:.3f}", f"{metrics[name].value - earlier:+.3f}")
        for name, earlier in before.metrics.items()
        if name in metrics
    )
    header = ("held out", f"version {night.version.version}", f"version {before.version}", "change")
    return "## Against the champion before\n\n" + markdown_table(header, rows)


def _links(night: Night, tracking_uri: str) -> list[str]:
    """Return links and commands that show the version, roll it back or promote it."""
    if night.version is None:
        return []
    name, version = night.version.name, night.version.version
    links = []
    if tracking_uri.startswith("http"):
        server = public(tracking_uri).rstrip("/")
        links.append(f"[version {version} in MLflow]({server}/#/models/{name}/versions/{version})")
    links.append(f"`grayline report {name}/{version} -o report.html`: all results on one page")
    if night.decision and night.decision.promoted:
        links.append(f"`grayline rollback {name}`: makes the earlier champion the champion again")
    elif night.decision and night.decision.checks:
        links.append(f"`grayline promote {name} {version}`: promotes it nevertheless")
    return links


def headline(night: Night) -> str:
    name = night.catalog.dataset
    if night.decision is None:
        return f"{name}: {[stage for stage, _ in summary(night) if stage != 'checks'][-1]} is done"
    version = night.decision.version.version
    if night.decision.promoted:
        return f"{name}: version {version} is the new champion"
    if not night.decision.checks:
        return f"{name}: nothing has changed; version {version} stays the champion"
    return f"{name}: version {version} was not promoted"


def summary(night: Night) -> list[tuple[str, str]]:
    """Return (stage, result), for the page and for the terminal."""
    catalog = night.catalog
    unchanged = "nothing was read again" if not catalog.read else f"{catalog.read:,} read now"
    near = f"; {catalog.near:,} are the same picture as another" if catalog.near else ""
    rows = [
        (
            "ingest",
            f"{plural(catalog.images, 'image')}: {catalog.by_status()}{near}; {unchanged}; "
            f"catalog version {catalog.version}",
        ),
        *([("split", placement.summary(catalog.placement))] if catalog.placement else []),
        ("checks", _checks_line(night.data)),
    ]
    if night.shard_set:
        shards = night.shard_set
        counts = {"train": shards.train, "validation": shards.validation, "test": shards.test}
        total = sum(counts.values())
        split = ", ".join(f"{n:,} {name}" for name, n in counts.items() if n or name != "validation")
        reused = f"{shards.written:,} of {plural(total, 'image')} written now" if shards.written else "all reused"
        rows.append(
            (
                "preprocess",
                f"{plural(len(shards.files), 'shard')} of {shards.preprocessing.size} px ({split}); {reused}",
            )
        )
    if night.checkpoint:
        made = night.checkpoint
        how = (
            "reused: data, settings and code are unchanged"
            if made.reused
            else f"{made.seconds:,.0f} s on {made.device}"
        )
        rows.append(("train", f"{plural(made.epochs, 'epoch')}, training accuracy {made.train_accuracy:.3f}; {how}"))
    if night.evaluation:
        worse = f"; worse: {', '.join(night.evaluation.worse)}" if night.evaluation.worse else ""
        rows.append(("evaluate", held_out(night.evaluation, *_SHOWN) + worse))
        rows += _recalls(night.evaluation.evidence)
    if night.version:
        rows.append(("register", str(night.version)))
    if night.decision:
        outcome = "promoted to champion" if night.decision.promoted else "not promoted"
        outcome = outcome if night.decision.checks else "nothing to decide"
        rows.append(("gate", f"{outcome}: {night.decision.reason}"))
    return rows


def _recalls(found: Evidence) -> list[tuple[str, str]]:
    """Return how many of each class's held-out images are found, the class that is missed most first."""
    ordered = sorted(found.recalls.items(), key=lambda each: each[1].value)
    texts = [f"{name!r} {recall} of {found.supports[name]:,}" for name, recall in ordered if found.supports[name]]
    return [("recall", some_of(texts, _CLASSES))] if texts else []


def _checks_line(data: DataReport) -> str:
    if not data.warnings:
        return f"{len(data.findings)} passed; pictures in {data.folder}"
    return f"{len(data.warnings)} of {len(data.findings)} warn: " + "; ".join(map(str, data.warnings))
