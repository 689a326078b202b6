"""A report's story: whose version this is, in a headline and a few sentences, where it came from, and what
has become of it."""

from collections.abc import Mapping
from typing import Any

from tasks.registry.champion import Event
from tasks.registry.versions import (
    BEFORE,
    CATALOG,
    CHALLENGER,
    CHAMPION,
    CHECKPOINT,
    COMMIT,
    FILES,
    GATE,
    GATE_CHECKS,
    GATE_SETTINGS,
    LOCK,
    REASON,
    ROLLED_BACK,
    SEED,
    SHARDS,
    SIGNATURE,
    SINCE,
)
from tasks.report.parts import Parts
from tasks.report.sections import Section, baseline
from tasks.report.words import between, counted, listed, moment, percent, value_of

LINEAGE = {  # tags that every version has one of, and their names on the page
    COMMIT: "Commit",
    LOCK: "Installed packages, digest",
    FILES: "Files of the version, digest",
    SIGNATURE: "Signed by, key's digest",
    SEED: "Seed",
}
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


def verdict(parts: Parts) -> Section:
    """What the version is today: a word, whether that is good, and since when and why."""
    tags, aliases = parts.tags, parts.aliases
    since = moment(tags[SINCE]) if SINCE in tags else ""
    said = tags.get(GATE, "")
    if CHAMPION in aliases:
        text = f"It scores new images since {since}." if since else "It scores new images."
        return {"word": "Champion", "kind": "good", "text": text, "why": tags.get(REASON, "")}
    if ROLLED_BACK in tags:
        at, _, why = tags[ROLLED_BACK].partition(": ")
        return {"word": "Rolled back", "kind": "bad", "text": f"It was taken back on {moment(at)}.", "why": why}
    if said.startswith("refused"):
        why = said.removeprefix("refused: ")
        return {"word": "Refused", "kind": "bad", "text": "The gate did not let it in.", "why": why}
    if since:
        text = f"It became the champion on {since}, and another has taken over."
        return {"word": "Former champion", "kind": "plain", "text": text, "why": tags.get(REASON, "")}
    if CHALLENGER in aliases:
        return {"word": "Challenger", "kind": "plain", "text": "It waits for a decision.", "why": said}
    return {"word": "Registered", "kind": "plain", "text": "It has never scored new images.", "why": said}


def in_short(parts: Parts, sections: Mapping[str, Section | None]) -> list[tuple[str, str]]:
    """(section, sentence): the findings, most important first."""
    found = []
    accuracy = (parts.metrics or {}).get("metrics", {}).get("accuracy")
    if accuracy:
        images, chance = (parts.metrics or {})["images"], baseline(parts)
        said = f"Right on {percent(value_of(accuracy))} of {counted(images, 'held-out image')}"
        span = between("accuracy", accuracy)
        said += f" (95% interval {span})" if span else ""
        found.append(("metrics", said + (f"; always saying the largest class: {percent(chance)}." if chance else ".")))
    for name in ("gate", "slices", "confusion", "calibration", "review"):
        section = sections.get(name)
        if section:
            found.append((name, section["lead"]))
    return found


def lineage(parts: Parts) -> Section:
    """From the source's catalog to this version, and what is needed to make it again."""
    tags, training = parts.tags, parts.training
    settings = [(name, training.params[key]) for key, name in _SETTINGS.items() if key in training.params]
    chain = [
        ("Catalog", tags.get(CATALOG, ""), "images, labels, splits"),
        ("Shards", tags.get(SHARDS, ""), "the pixels"),
        ("Training", tags.get(CHECKPOINT, ""), "data, settings and code"),
        ("Version", f"{parts.name}/{parts.version}", f"registered {moment(parts.created)}"),
    ]
    records = [(name, tags[key]) for key, name in LINEAGE.items() if key in tags]
    known = {
        *LINEAGE,
        GATE,
        GATE_CHECKS,
        GATE_SETTINGS,
        SINCE,
        REASON,
        BEFORE,
        ROLLED_BACK,
        CHECKPOINT,
        CATALOG,
        SHARDS,
    }
    records += [
        (name.removeprefix("grayline.").replace("_", " ").replace(".", " ").capitalize(), value)
        for name, value in sorted(tags.items())
        if name.startswith("grayline.") and name not in known and len(value) < 200
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
    """The model's events, the newest first; those of this version are marked."""
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
            "versions": moved(event),
        }
        for event in reversed(parts.history)
    ]
    last = events[0]
    return {
        "lead": f"{counted(len(events), 'decision')} on {parts.name}; the last: {last['action']}, {last['time']}.",
        "events": events,
    }


def moved(event: Event) -> str:
    """What an event did to the champion, in versions."""
    if event.action == "refused":
        return f"version {event.after}" + (f"; version {event.before} stays" if event.before else "")
    if event.action == "rolled back":
        return f"version {event.before}; version {event.after} is back"
    return f"version {event.after}" + (f", in place of version {event.before}" if event.before else "")


def left_out(parts: Parts, sections: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the report would show and this version does not have, and why."""
    why = {
        "metrics": "the run has no evaluation/metrics.json",
        "gate": "no gate has judged this version",
        "slices": "the evaluation measured no slices",
        "sizes": "the evaluation measured one input size only",
        "curves": "the run has neither training metrics nor predictions",
        "review": "no coverage and no costs are stated in the data set file",
        "gallery": "the run has no explanation/ (those of encrypted data sets have none)",
        "history": "the registry has no history of this model",
        "card": "the version's description has no card",
    }
    missing = [(name, text) for name, text in why.items() if not sections.get(name)]
    if parts.metrics and not parts.metrics.get("uncalibrated"):
        missing.append(("calibration", "measured without a temperature, so there is no before and after"))
    return missing


def description(parts: Parts) -> str:
    """For search engines of wikis and the tab's tooltip: the verdict in one line."""
    said = verdict(parts)
    return f"{parts.name} version {parts.version}: {listed([said['word'].lower(), said['text']])}"
