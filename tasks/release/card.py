"""A version's card, as the Markdown that MLflow shows: its data, its quality, its use.

The parts follow model cards (Mitchell et al. 2019, "Model Cards for Model Reporting").
"""

import json
import math
from dataclasses import dataclass
from typing import Any

from upath import UPath

from resnet_core.catalog.queries import good_images
from resnet_core.errors import plural
from resnet_core.evaluation.bootstrap import Interval
from resnet_core.images.decision import in_words
from tasks.artifacts import Markdown, checks_table, code, markdown_table
from tasks.dataset import CardConfig
from tasks.evaluation.page import counted
from tasks.registry.runs import client
from tasks.store import METRICS_FILE
from tasks.training.lineage import machine_of
from tasks.values import Catalog, Checkpoint, Decision, Evaluation, ShardSet

_GATE_HEADING = "\n## Gate\n"
_NOT_STATED = "Not stated: `card:` in the data set file says it."
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Made:
    """The parts of a version: its training with `lineage` (see `tasks.training.lineage`), its evaluation and its
    data.
    """

    checkpoint: Checkpoint
    evaluation: Evaluation
    catalog: Catalog
    shard_set: ShardSet
    lineage: dict[str, Any]


def card(made: Made, words: CardConfig) -> str:
    """Return the whole card, without the gate's table."""
    name = made.checkpoint.dataset
    preprocessing = made.shard_set.preprocessing
    return (
        f"# {name}: {plural(len(made.shard_set.classes), 'class', 'classes')}, {preprocessing.size} px gray images\n"
        f"{_GATE_HEADING}\nNot judged yet.\n"
        f"\n## Intended use\n\n{words.intended_use.strip() or _NOT_STATED}\n"
        f"\n## Limits\n\n{limits(made, words)}\n"
        f"\n## Data\n\n{data(made, words)}\n"
        f"\n## Quality\n\n{quality(made)}\n"
        f"\n## Training\n\n{training(made)}\n"
    )


def limits(made: Made, words: CardConfig) -> str:
    """Return the owner's words and the limits that every model of this kind has."""
    side = made.shard_set.preprocessing.size
    own = f"{words.limits.strip()}\n\n" if words.limits.strip() else ""
    return (
        f"{own}It knows the classes below and no other: an image of something else gets one of them too. The figures "
        f"hold for images like the held-out ones; each is resized to {side} x {side} px, and what is lost in that "
        "cannot be seen."
    )


def data(made: Made, words: CardConfig) -> str:
    """Return the source of the images, their licence, and their number by class and split."""
    catalog, shard_set = made.catalog, made.shard_set
    counts = _count_images(catalog.path)
    used = [split for split in _SPLITS if any(counts.get((name, split)) for name in shard_set.classes)]
    rows = [(name, *(f"{counts.get((name, split), 0):,}" for split in used)) for name in shard_set.classes]
    source = made.lineage.get("dataset", {}).get("source")
    levels = "; ".join(in_words(shard_set.preprocessing.rule))
    return (
        (f"Source {code(source)}; " if source else "")
        + f"catalog version {catalog.version} (`{catalog.digest}`) in {code(catalog.path)}; "
        f"shards `{shard_set.digest}`. What a version of the catalog changed: `grayline catalog diff "
        f"{max(catalog.version - 1, 0)} {catalog.version} --dataset {catalog.dataset}`.\n\n"
        + (f"Gray levels, black to white: {levels}.\n\n" if levels else "")
        + f"Licence of the images: {words.licence.strip() or _NOT_STATED}\n\n"
        + markdown_table(("class", *used), rows)
    )


def _count_images(path: UPath) -> dict[tuple[str, str], int]:
    """Count the good images by label and split."""
    images = good_images(path, ["label", "split"])
    found = images.group_by(["label", "split"]).aggregate([([], "count_all")]).to_pylist()
    return {(row["label"], row["split"]): row["count_all"] for row in found}


def quality(made: Made) -> str:
    """Return the metrics on the held-out images, overall and by class."""
    rows = ((name.replace("_", " "), interval) for name, interval in made.evaluation.metrics.items())
    text = f"On images that training has not seen: {counted(made.evaluation, 'accuracy')}.\n\n" + markdown_table(
        ("metric", "value (95% interval)"), rows
    )
    path = made.evaluation.folder / METRICS_FILE
    classes = json.loads(path.read_text(encoding="utf-8")).get("classes", {}) if path.exists() else {}
    if classes:
        by_class = (
            (name, *(ends(of[key]) for key in ("precision", "recall", "f1")), f"{of['support']:,}")
            for name, of in classes.items()
        )
        text += "\n\n" + markdown_table(("class", "precision", "recall", "F1", "images"), by_class)
    return text


def ends(interval: dict[str, float | None]) -> str:
    """Return `0.848 (0.819 to 0.874)`. JSON has null where a metric is undefined."""
    return str(Interval(**{key: math.nan if end is None else end for key, end in interval.items()}))


def training(made: Made) -> str:
    """Return the table of the training: network, epochs, time, hardware, seeds, code and packages."""
    lineage, checkpoint = made.lineage, made.checkpoint
    dataset, machine = lineage.get("dataset", {}), machine_of(lineage)
    seeds = lineage.get("seeds", {})
    unknown = "not recorded"
    rows = {
        "network": f"{dataset['model']['arch']}, recipe {dataset['recipe']}" if dataset else unknown,
        "chosen": lineage.get("chosen") or "nothing: the data set file has the values",
        "epochs": f"{checkpoint.epochs}"
        + (f", from the weights of {lineage['start']}" if lineage.get("start") else ""),
        "time": f"{checkpoint.seconds:,.0f} s on {checkpoint.device}",
        "hardware": str(machine) if machine else unknown,
        "seeds": f"{seeds['training']} (training), {seeds['split']} (split)" if seeds else unknown,
        "commit": code(lineage.get("commit", unknown)),
        "distributions": f"{len(lineage['distributions'])}, SHA-256 {lineage['lock']} (environment.txt of the run)"
        if lineage
        else unknown,
        "training": Markdown(f"{code(checkpoint.digest)}, run {code(checkpoint.mlflow_run_id)}"),
    }
    return markdown_table(("", ""), rows.items())


def add_gate(tracking_uri: str, decision: Decision) -> None:
    """Put the gate's table into the card of the version."""
    version, registry = decision.version, client(tracking_uri)
    text = registry.get_model_version(version.name, version.version).description or ""
    registry.update_model_version(version.name, version.version, _with_gate(text, decision))


def _with_gate(text: str, decision: Decision) -> str:
    """Return the card with this table under the gate's heading, in place of an earlier one."""
    outcome = "Promoted" if decision.promoted else "Refused"
    section = f"\n{outcome}.\n\n{checks_table(decision.checks)}\n"
    before, heading, after = text.partition(_GATE_HEADING)
    if not heading:
        return f"{text.rstrip()}\n{_GATE_HEADING}{section}"
    _, next_heading, rest = after.partition("\n## ")
    return before + heading + section + next_heading + rest
