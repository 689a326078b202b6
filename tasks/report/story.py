"""Story of a version's report: the verdict, the findings in short, lineage and history."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from resnet_core.errors import plural
from tasks.registry import versions
from tasks.registry.champion import Event
from tasks.report.parts import Parts
from tasks.report.sections import Section, baseline
from tasks.report.words import between, moment, percent, value_of

_LINEAGE = {  # tags of every version, and their names on the page
    versions.COMMIT: "Commit",
    versions.LOCK: "Installed packages, digest",
    versions.FILES: "Files of the version, digest",
    versions.SIGNATURE: "Signed by, key's digest",
    versions.SEED: "Seed",
}
_SHOWN_ELSEWHERE = {
    versions.GATE, versions.GATE_CHECKS, versions.GATE_SETTINGS, versions.SINCE, versions.REASON, versions.BEFORE,
    versions.ROLLED_BACK, versions.CHECKPOINT, versions.CATALOG, versions.SHARDS,
}  # fmt: skip
_SETTINGS = {
    "model.arch": "Network",
    "model.width": "Width",
    "recipe": "Recipe",
    "train.epochs": "Epochs",
    "train.batch_size": "Batch size",
    "train.optimizer": "Optimizer",
    "train.lr": "Learning rate",
    "image.size": "Image side, in pixels",
}


class _Verdict(NamedTuple):
    word: str
    kind: str  # good, bad or plain
    text: str
    why: str


def verdict(parts: Parts) -> _Verdict:
    """Return the version's state today, since when, and why."""
    tags, aliases = parts.tags, parts.aliases
    since = moment(tags[versions.SINCE]) if versions.SINCE in tags else ""
    decision = tags.get(versions.GATE, "")
    if versions.CHAMPION in aliases:
        text = f"It scores new images since {since}." if since else "It scores new images."
        return _Verdict("Champion", "good", text, tags.get(versions.REASON, ""))
    if versions.ROLLED_BACK in tags:
        at, _, why = tags[versions.ROLLED_BACK].partition(": ")
        return _Verdict("Rolled back", "bad", f"It was rolled back on {moment(at)}.", why)
    if decision.startswith("refused"):
        why = decision.removeprefix("refused: ")
        return _Verdict("Refused", "bad", "The gate did not promote it.", why)
    if since:
        text = f"It became the champion on {since}, and another has taken over."
        return _Verdict("Former champion", "plain", text, tags.get(versions.REASON, ""))
    if versions.CHALLENGER in aliases:
        return _Verdict("Challenger", "plain", "It waits for a decision.", decision)
    return _Verdict("Registered", "plain", "It has never scored new images.", decision)


def in_short(parts: Parts, sections: Mapping[str, Section | None]) -> list[tuple[str, str]]:
    """Return (section, sentence) for the findings, most important first."""
    findings = []
    accuracy = parts.metrics.get("metrics", {}).get("accuracy")
    if accuracy:
        images, chance = parts.metrics["images"], baseline(parts)
        said = f"Right on {percent(value_of(accuracy))} of {plural(images, 'held-out image')}"
        span = between("accuracy", accuracy)
        said += f" (95% interval {span})" if span else ""
        findings.append(
            ("metrics", said + (f"; always saying the largest class: {percent(chance)}." if chance else "."))
        )
    for name in ("gate", "slices", "look_alikes", "confusion", "calibration", "review"):
        section = sections.get(name)
        if section:
            findings.append((name, section["lead"]))
    return findings


def lineage(parts: Parts) -> Section:
    """Return the chain from the catalog to this version, its settings, and the records to reproduce it."""
    tags, training = parts.tags, parts.training
    settings = [(name, training.params[key]) for key, name in _SETTINGS.items() if key in training.params]
    chain = [
        ("Catalog", tags.get(versions.CATALOG, ""), "images, labels, splits"),
        ("Shards", tags.get(versions.SHARDS, ""), "the pixels"),
        ("Training", tags.get(versions.CHECKPOINT, ""), "data, settings and code"),
        ("Version", f"{parts.name}/{parts.version}", f"registered {moment(parts.created)}"),
    ]
    records = [(name, tags[key]) for key, name in _LINEAGE.items() if key in tags]
    records += [
        (name.removeprefix("grayline.").replace("_", " ").replace(".", " ").capitalize(), value)
        for name, value in sorted(tags.items())
        if name.startswith("grayline.") and name not in {*_LINEAGE, *_SHOWN_ELSEWHERE} and len(value) < 200
    ]
    if training.run_id:
        records.append(("MLflow run", training.run_id))
    records += [(f"Data set {name}", f"digest {digest}") for name, digest in training.data]
    place = f"{parts.server.rstrip('/')}/#/experiments/{training.experiment_id}/runs/{training.run_id}"
    return {
        "lead": "Each digest names everything that went into it: the same inputs give the same digest.",
        "chain": [step for step in chain if step[1]],
        "records": records,
        "settings": settings,
        "link": place if parts.server and training.run_id and "@" not in parts.server else "",
    }


def history(parts: Parts) -> Section | None:
    """Return the model's events, newest first."""
    if not parts.history:
        return None
    events = [
        {
            "at": event.at,
            "time": moment(event.at),
            "action": event.action,
            "kind": {"promoted": "good", "rolled back": "bad"}.get(event.action, "plain"),
            "who": event.who,
            "why": event.why,
            "versions": _versions_of(event),
        }
        for event in reversed(parts.history)
    ]
    last = events[0]
    return {
        "lead": f"{plural(len(events), 'decision')} on {parts.name}; the last: {last['action']}, {last['time']}.",
        "events": events,
    }


def _versions_of(event: Event) -> str:
    """Return the versions of an event as text."""
    if event.action == "refused":
        return f"version {event.after}" + (f"; version {event.before} stays" if event.before else "")
    if event.action == "rolled back":
        return f"version {event.before}; version {event.after} is back"
    return f"version {event.after}" + (f", in place of version {event.before}" if event.before else "")


def left_out(parts: Parts, sections: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (section, reason) for the sections that this version lacks."""
    why = {
        "metrics": "the run has no evaluation/metrics.json",
        "gate": "the gate has not judged this version",
        "slices": "the evaluation measured no slices",
        "sizes": "the evaluation measured one input size only",
        "curves": "the run has neither training metrics nor predictions",
        "review": "the data set file states neither coverage nor costs",
        "gallery": "the run has no explanation/, like all runs of encrypted data sets",
        "look_alikes": "no held-out image is known to look like a training image",
        "history": "the registry has no history of this model",
        "card": "the version's description has no card",
    }
    missing = [(name, text) for name, text in why.items() if not sections.get(name)]
    if parts.metrics and not parts.metrics.get("uncalibrated"):
        missing.append(("calibration", "measured without a temperature, so there is no before and after"))
    return missing


def description(parts: Parts) -> str:
    """Return the verdict in one line, for search engines of wikis."""
    state = verdict(parts)
    return f"{parts.name} version {parts.version}: {state.word.lower()} and {state.text}"
