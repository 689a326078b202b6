"""A version in int8: the gate measures its loss of accuracy, and allows it or not.

The promotion of the version does not depend on it. The outcome is a tag of the version; the file lies beside its
run (see `int8_file`).
"""

import json
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnet_core.errors import UserError
from resnet_core.evaluation.comparison import Comparison, Pair, compare
from resnet_core.evaluation.metrics import METRICS, Probabilities
from resnet_core.export import formats as export_formats
from resnet_core.export import onnx_file
from resnet_core.export.graph import Outputs, describe, trace
from resnet_core.model.calibration import Calibration
from resnet_core.model.novelty import Distances, Novelty
from resnet_core.shards.format import Images
from resnet_core.storage.digest import file_digest
from tasks.dataset import Gate
from tasks.evaluation.held_out import facts, groups_of, in_order, score_split
from tasks.registry.images import VersionImages
from tasks.registry.int8_file import FILE, place_of
from tasks.registry.integrity import sign
from tasks.registry.patience import RegistryError
from tasks.registry.runs import client
from tasks.registry.versions import INT8, load_classifier
from tasks.settings import Settings
from tasks.values import Night, have
from tasks.workspace import Workspace

log = logging.getLogger("grayline")

_CALIBRATED = 512  # training images that the scales are measured on


def measure_int8(night: Night, gate: Gate, here: Workspace) -> None:
    """Write the file, compare it with the version on the held-out images, and record whether it may be used.

    It may if it is shown, with the gate's confidence, to lose no more accuracy than `gate.int8`.
    """
    version, tracking_uri = have(night.version), here.tracking_uri
    if gate.int8 is None:
        return
    try:
        export_formats.check_installed("gate:", "int8")
    except UserError as error:
        log.warning("gate        int8 was not measured: %s", error)
        return
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / FILE
            found, differing = _made_and_compared(night, gate, here, path)
            outcome = outcome_of(found, gate.int8, file_digest(path), differing)
            if outcome["allowed"]:
                if key := Settings().signing_key:
                    sign(path.parent, Path(key))
                client(tracking_uri).log_artifacts(version.run_id, folder, place_of(version))
    except RegistryError:  # no answer of MLflow: the next night measures
        raise
    except Exception as error:  # noqa: BLE001  of whatever library: the version is as good without
        log.warning(
            "gate        int8 was not measured: %s", (str(error).strip() or type(error).__name__).splitlines()[0]
        )
        return
    client(tracking_uri).set_model_version_tag(version.name, version.version, INT8, json.dumps(outcome))
    log.info("gate        int8 is %s: %s", "allowed" if outcome["allowed"] else "not allowed", outcome["found"])


def _made_and_compared(night: Night, gate: Gate, here: Workspace, path: Path) -> tuple[Comparison, int]:
    """Write the file to `path`. Return the comparison, in which int8 is the new one, and how many decisions differ."""
    version, shard_set = have(night.version), have(night.shard_set)
    classifier = load_classifier(here.tracking_uri, version, "cpu")
    known = VersionImages(shard_set, here.keys)
    text = describe(classifier, version.name, version.version)
    program = trace(classifier, features=classifier.novelty is not None)
    onnx_file.write_int8(program, text, path, known.sample(_CALIBRATED))
    outputs = onnx_file.load_outputs(path, torch.get_num_threads())
    image_ids, labels, own, _ = score_split(classifier, shard_set, "test", here.keys, lambda done: None)
    new, far = _answers(outputs, classifier.novelty, known.split("test"))
    if classifier.novelty is not None:
        if shard_set.validation:
            _, far = _answers(outputs, classifier.novelty, known.split("validation"))
        onnx_file.keep_held_out(path, np.sort(far))
    groups = groups_of(in_order(facts(night.catalog), image_ids))
    return compare_decisions(classifier.calibration, Pair(labels, new, own, groups), gate.level)


def _answers(outputs: Outputs, novelty: Novelty | None, images: Iterator[Images]) -> tuple[Probabilities, Distances]:
    """Return probabilities [N, C] by the file, and distances [N] by its features; none without novelty."""
    shares, far = [], [np.empty(0, np.float32)]
    for piece in (piece for part in images for piece in onnx_file.pieces(part.pixels)):
        found = outputs(piece)
        shares.append(found[0])
        if novelty is not None:
            far.append(novelty.distances(torch.from_numpy(found[1])).numpy())
    return np.concatenate(shares), np.concatenate(far)


def compare_decisions(calibration: Calibration, pair: Pair, level: float) -> tuple[Comparison, int]:
    """Compare the accuracy of what a batch decides, and count the decisions that differ. pair: probabilities."""
    weighted = replace(pair, new=calibration.weighted(pair.new), old=calibration.weighted(pair.old))
    differing = int((weighted.new.argmax(1) != weighted.old.argmax(1)).sum())
    return compare(METRICS["accuracy"], weighted, level), differing


def outcome_of(found: Comparison, most: float, digest: str, differing: int) -> dict[str, Any]:
    """Return the content of the tag."""
    words = (
        f"accuracy {found.value:+.4f} (at least {found.lower:+.4f}, {found.confidence:.0%} sure; of {found.images:,} "
        f"images {found.gained:,} gained, {found.lost:,} lost, {differing:,} decided otherwise), "
        f"wanted at least {-most:+.4f}"
    )
    return {
        "allowed": found.not_worse(most),
        "found": words,
        "value": found.value,
        "lower": found.lower,
        "sha256": digest,
        "differing": differing / found.images,
    }
