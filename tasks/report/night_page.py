"""The morning's story: what the night came to, as one Markdown page and a few lines."""

from dataclasses import dataclass

from prefect import task
from prefect.artifacts import create_markdown_artifact

from resnet_core.catalog.history import versions
from resnet_core.evaluation.metrics import Interval
from tasks.artifacts import checks_table, markdown_table, plain
from tasks.registry import runs as tracking
from tasks.registry.versions import BEFORE, CHAMPION, by_alias, find_version
from tasks.store import Store
from tasks.values import DataReport, ModelVersion, Night
from tasks.workspace import Workspace

SHOWN = ("accuracy", "macro_f1", "roc_auc")


@dataclass(frozen=True)
class Before:
    """The champion that tonight's version is held against, and its own held-out metrics."""

    version: str
    metrics: dict[str, float]


@task
def report_night(night: Night, here: Workspace) -> Night:
    """Publish the page as a Prefect artifact. Returns the night it was given."""
    before = champion_before(night, here.tracking_uri) if night.version else None
    changes = catalog_changes(night, here.store)
    page = markdown(night, before, changes, here.tracking_uri)
    create_markdown_artifact(page, key="nightly-retrain", description=headline(night))
    return night


def markdown(night: Night, before: Before | None = None, changes: str = "", tracking_uri: str = "") -> str:
    """One screen: the verdict, what has changed, the gate's table, where to look; then a row a stage."""
    parts = [f"# {headline(night)}", "\n".join(f"- {line}" for line in story(night, before, changes))]
    if night.decision and night.decision.checks:
        parts.append("## Gate\n\n" + checks_table(night.decision.checks))
    if before and night.evaluation:
        parts.append(_metrics_table(night, before))
    looks = _links(night, tracking_uri)
    if looks:
        parts.append("## Where to look\n\n" + "\n".join(f"- {line}" for line in looks))
    stages = ((stage, plain(text)) for stage, text in summary(night))
    parts.append("## Stages\n\n" + markdown_table(("stage", ""), stages))
    return "\n\n".join(parts) + "\n"


def story(night: Night, before: Before | None, changes: str) -> list[str]:
    """The night in a few sentences: why, how good, on what data, what to look at."""
    lines = []
    if night.decision and night.decision.checks:
        failed = [check for check in night.decision.checks if not check.passed]
        counted = f"{len(failed)} of {len(night.decision.checks)} checks failed" if failed else "every check passed"
        stays = f"; version {before.version} stays the champion" if failed and before else ""
        lines.append(f"{counted}{stays}: {plain(night.decision.reason)}")
    if night.evaluation:
        found, images = night.evaluation.metrics["accuracy"], night.evaluation.count
        lines.append(f"accuracy {found} on {images:,} held-out images{_against(found, before)}")
        if night.evaluation.worse:
            lines.append(f"**significantly worse than the rest**: {plain(', '.join(night.evaluation.worse))}")
    count = night.catalog.read
    read = f"{count:,} {'images were' if count > 1 else 'image was'} read" if count else "no image was new"
    lines.append("; ".join(filter(None, [read, changes, f"{night.catalog.ok:,} are good"])))
    warnings = "; ".join(plain(str(finding)) for finding in night.data.warnings)
    lines.append(f"**the data checks warn**: {warnings}" if warnings else "the data checks have nothing to report")
    return lines


def _against(found: Interval, before: Before | None) -> str:
    if before is None or "accuracy" not in before.metrics:
        return ""
    return f", {found.value - before.metrics['accuracy']:+.3f} against version {before.version}'s own"


def champion_before(night: Night, tracking_uri: str) -> Before | None:
    """Whom tonight's version took over from or failed to; None where there was nobody."""
    assert night.version is not None
    registry = tracking.client(tracking_uri)
    if night.decision and night.decision.promoted:
        tags = registry.get_model_version(night.version.name, night.version.version).tags
        number = tags.get(BEFORE)
        other = find_version(tracking_uri, night.version.name, number) if number else None
    else:
        other = by_alias(tracking_uri, night.version.name, CHAMPION)
    if other is None or other.version == night.version.version:
        return None
    return Before(other.version, _metrics_of(other, tracking_uri))


def _metrics_of(version: ModelVersion, tracking_uri: str) -> dict[str, float]:
    """What its own evaluation found, without the intervals."""
    found = tracking.client(tracking_uri).get_run(version.run_id).data.metrics if version.run_id else {}
    return {name: found[f"test_{name}"] for name in SHOWN if f"test_{name}" in found}


def catalog_changes(night: Night, store: Store) -> str:
    """What the newest version of the catalog changed, if it was made of what was read now."""
    if not night.catalog.read:
        return ""
    rows = versions(store.history(night.catalog.dataset)).to_pylist()
    last = next((row for row in rows if row["version"] == night.catalog.version), None)
    return ", ".join(f"{last[key]:,} {key}" for key in ("came", "went", "changed") if last[key]) if last else ""


def _metrics_table(night: Night, before: Before) -> str:
    """Each version's own evaluation; the gate's rows are of the same images."""
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
    """Where the version is, and the commands that say more or take it back."""
    if night.version is None:
        return []
    name, version = night.version.name, night.version.version
    found = []
    if tracking_uri.startswith("http") and "@" not in tracking_uri:
        found.append(f"[version {version} in MLflow]({tracking_uri.rstrip('/')}/#/models/{name}/versions/{version})")
    found.append(f"`grayline report {name}/{version} -o report.html`: all of it on one page")
    if night.decision and night.decision.promoted:
        found.append(f"`grayline rollback {name}`: takes it back")
    elif night.decision and night.decision.checks:
        found.append(f"`grayline promote {name} {version}`: lets it in all the same")
    return found


def headline(night: Night) -> str:
    name = night.catalog.dataset
    if night.decision is None:
        return f"{name}: stopped before the gate, as asked"
    version = night.decision.version.version
    if night.decision.promoted:
        return f"{name}: version {version} is the new champion"
    if not night.decision.checks:
        return f"{name}: nothing has changed; version {version} stays the champion"
    return f"{name}: version {version} was not promoted"


def summary(night: Night) -> list[tuple[str, str]]:
    """(stage, what it came to), for the page and for the terminal."""
    catalog = night.catalog
    images = catalog.ok + catalog.duplicate + catalog.quarantined
    unchanged = "nothing was read again" if not catalog.read else f"{catalog.read:,} read now"
    alike = f"; {catalog.near:,} look like another" if catalog.near else ""
    rows = [
        (
            "ingest",
            f"{images:,} images: {catalog.ok:,} ok, {catalog.duplicate:,} duplicate, "
            f"{catalog.quarantined:,} quarantined{alike}; {unchanged}; catalog version {catalog.version}",
        ),
        ("checks", _checks_line(night.data)),
    ]
    if night.shard_set:
        s = night.shard_set
        total = s.train + s.validation + s.test
        reused = "all reused" if not s.written else f"{s.written:,} of {total:,} images written now"
        split = f"{s.train:,} train, " + (f"{s.validation:,} validation, " if s.validation else "") + f"{s.test:,} test"
        rows.append(("preprocess", f"{len(s.files)} shards of {s.preprocessing.size} px ({split}); {reused}"))
    if night.checkpoint:
        c = night.checkpoint
        how = "reused: data, settings and code are unchanged" if c.reused else f"{c.seconds:,.0f} s on {c.device}"
        rows.append(("train", f"{c.epochs} epochs, training accuracy {c.train_accuracy:.3f}; {how}"))
    if night.evaluation:
        metrics = night.evaluation.metrics
        shown = ", ".join(f"{name.replace('_', ' ')} {metrics[name]}" for name in SHOWN)
        worse = f"; worse: {', '.join(night.evaluation.worse)}" if night.evaluation.worse else ""
        rows.append(("evaluate", f"{shown} on {night.evaluation.count:,} held-out images{worse}"))
    if night.version:
        rows.append(("register", f"{night.version.name} version {night.version.version}"))
    if night.decision:
        outcome = "promoted to champion" if night.decision.promoted else "not promoted"
        outcome = outcome if night.decision.checks else "nothing to decide"
        rows.append(("gate", f"{outcome}: {night.decision.reason}"))
    return rows


def _checks_line(data: DataReport) -> str:
    """What the data checks warn of."""
    if not data.warnings:
        return f"{len(data.findings)} passed; pictures in {data.folder}"
    return f"{len(data.warnings)} of {len(data.findings)} warn: " + "; ".join(map(str, data.warnings))
