"""The gate: may a new version become the champion? A floor, and not worse than the champion."""

import numpy as np
import pandas as pd
from prefect import task
from prefect.artifacts import create_table_artifact

from resnet_core import shards
from resnet_core.classifier import Classifier
from resnet_core.encryption import Keys
from resnet_core.metrics import METRICS, Labels, Probabilities, difference
from resnet_core.read import read_file
from tasks import tracking
from tasks.dataset import Gate
from tasks.registry import CHAMPION, GATE, ROLLED_BACK, by_alias, load_classifier
from tasks.values import Catalog, Check, Decision, Evaluation, ModelVersion, ShardSet


@task
def judge(
    version: ModelVersion,
    evaluation: Evaluation,
    catalog: Catalog,
    shard_set: ShardSet,
    gate: Gate,
    tracking_uri: str,
    device: str = "auto",
    keys: Keys | None = None,
) -> Decision:
    """Hold the version against the floor and against today's champion on the same held-out images.
    The outcome is written on the version, whatever it is."""
    champion = by_alias(tracking_uri, version.name, CHAMPION)
    if champion and champion.version == version.version:
        return Decision(version, (), False, "data, settings and code are those of the champion")
    checks = [check_floor(evaluation, gate), check_history(version, tracking_uri)]
    if champion:
        classifier = load_classifier(tracking_uri, champion, device)
        checks.append(check_champion(champion, classifier, evaluation, catalog, shard_set, gate, keys))
    failed = [check for check in checks if not check.passed]
    passed_by = "; ".join(f"{check.name}: {check.found}" for check in failed or checks)
    decision = Decision(version, tuple(checks), not failed, passed_by)
    registry = tracking.client(tracking_uri)
    outcome = "refused" if failed else "passed"
    registry.set_model_version_tag(version.name, version.version, GATE, f"{outcome}: {passed_by}")
    create_table_artifact(
        [{"check": c.name, "wanted": c.wanted, "found": c.found, "passed": c.passed} for c in checks],
        key="gate",
        description=f"{version.name} version {version.version}: {outcome}",
    )
    return decision


def check_floor(evaluation: Evaluation, gate: Gate) -> Check:
    found = evaluation.metrics[gate.metric]
    return Check("floor", f"{gate.metric} at least {gate.minimum:.3f}", str(found), found.value >= gate.minimum)


def check_history(version: ModelVersion, tracking_uri: str) -> Check:
    """A version that a person took back does not return by itself, however good its figures are."""
    tags = tracking.client(tracking_uri).get_model_version(version.name, version.version).tags
    taken = tags.get(ROLLED_BACK)
    return Check("history", "never rolled back", f"rolled back: {taken}" if taken else "new", not taken)


def check_champion(
    champion: ModelVersion,
    classifier: Classifier,
    evaluation: Evaluation,
    catalog: Catalog,
    shard_set: ShardSet,
    gate: Gate,
    keys: Keys | None,
) -> Check:
    """The difference on the same images, with its paired interval, against the margin."""
    with (evaluation.folder / "predictions.parquet").open("rb") as file:
        predictions = pd.read_parquet(file)
    place = {name: k for k, name in enumerate(shard_set.classes)}
    labels: Labels = predictions["label"].map(place).to_numpy(dtype=np.int64)
    new = np.stack(predictions["probabilities"].to_numpy())
    old = champion_probabilities(classifier, predictions["image_id"].tolist(), catalog, shard_set, keys)
    gap = difference(METRICS[gate.metric], labels, new, old)
    return Check(
        f"champion (version {champion.version})",
        f"{gate.metric} at most {gate.margin:.3f} lower",
        f"{gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})",
        gap.value >= -gate.margin,
    )


def champion_probabilities(
    champion: Classifier, image_ids: list[str], catalog: Catalog, shard_set: ShardSet, keys: Keys | None
) -> Probabilities:
    """The champion's float32 [N, C] for these images, its classes put into today's order; a class
    that it does not know has probability 0. If it wants other pixels than today's shards hold, the
    files are read again, with its own preprocessing."""
    if champion.preprocessing == shard_set.preprocessing:
        parts = shards.iterate(shard_set.files, "test", shard_set.classes, keys)
        found = np.concatenate([champion.probabilities(images.pixels) for images in parts])
    else:
        found = reread(champion, image_ids, catalog)
    aligned = np.zeros((len(found), len(shard_set.classes)), dtype=np.float32)
    for k, name in enumerate(shard_set.classes):
        if name in champion.classes:
            aligned[:, k] = found[:, champion.classes.index(name)]
    return aligned


def reread(champion: Classifier, image_ids: list[str], catalog: Catalog) -> Probabilities:
    with catalog.path.open("rb") as file:
        table = pd.read_parquet(file)
    uris = table[table["present"] & (table["status"] == "ok")].set_index("image_id")["uri"]
    parts = []
    for start in range(0, len(image_ids), shards.ROW_GROUP):
        ids = image_ids[start : start + shards.ROW_GROUP]
        images = [read_file(uris[image_id], champion.preprocessing) for image_id in ids]
        pixels = [image.pixels for image in images if image.pixels is not None]
        if len(pixels) < len(ids):
            raise RuntimeError(f"{len(ids) - len(pixels)} held-out images have gone since they were ingested")
        parts.append(champion.probabilities(np.stack(pixels)))
    return np.concatenate(parts)
