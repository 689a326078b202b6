"""The morning's story: what the night came to, as one Markdown page and a few lines."""

from prefect import task
from prefect.artifacts import create_markdown_artifact

from tasks.values import DataReport, Decision, Night


@task
def report_night(night: Night) -> Night:
    """Publish the page as a Prefect artifact; returns what it was given."""
    create_markdown_artifact(markdown(night), key="nightly-retrain", description="What the night came to")
    return night


def markdown(night: Night) -> str:
    """One row a stage, as far as the night went, and the gate's table."""
    rows = [f"| {stage} | {text} |" for stage, text in summary(night)]
    page = f"# {headline(night)}\n\n| stage | |\n| --- | --- |\n" + "\n".join(rows) + "\n"
    return page + (gate_table(night.decision) if night.decision and night.decision.checks else "")


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
        ("checks", checks_line(night.data)),
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
        shown = ", ".join(f"{name.replace('_', ' ')} {metrics[name]}" for name in ("accuracy", "macro_f1", "roc_auc"))
        rows.append(("evaluate", f"{shown} on {night.evaluation.count:,} held-out images"))
    if night.version:
        rows.append(("register", f"{night.version.name} version {night.version.version}"))
    if night.decision:
        outcome = "promoted to champion" if night.decision.promoted else "not promoted"
        outcome = outcome if night.decision.checks else "nothing to decide"
        rows.append(("gate", f"{outcome}: {night.decision.reason}"))
    return rows


def checks_line(data: DataReport) -> str:
    """What the data checks warn of."""
    if not data.warnings:
        return f"{len(data.findings)} passed; pictures in {data.folder}"
    return f"{len(data.warnings)} of {len(data.findings)} warn: " + "; ".join(map(str, data.warnings))


def gate_table(decision: Decision) -> str:
    rows = "\n".join(
        f"| {check.name} | {check.wanted} | {check.found} | {'passed' if check.passed else '**failed**'} |"
        for check in decision.checks
    )
    return f"\n| check | wanted | found | |\n| --- | --- | --- | --- |\n{rows}\n"
