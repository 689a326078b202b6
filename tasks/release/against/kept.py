"""Keep how a version compares with the champion, beside its training, and read it while it still holds.

A version that stays refused comes before the gate every night. With the same versions, held-out images and files of the
last batches, the gate would find the same: nothing is scored again.
"""

import json
import logging
from dataclasses import asdict, replace
from typing import Any

from upath import UPath

import resnet_core.evaluation
import resnet_core.images
import resnet_core.inference
import resnet_core.model
import resnet_core.reading
import tasks.release.against
import tasks.release.evidence
import tasks.release.labelled
from resnet_core.errors import JobError
from resnet_core.evaluation.metrics import Interval
from resnet_core.storage.digest import GONE, check_digests, digest_of, source_digest, table_digest, write_digests
from resnet_core.storage.files import as_local, write_folder
from tasks.dataset import Dataset
from tasks.evaluation.held_out import facts
from tasks.registry.images import Learned, learned_from
from tasks.release.against.checks import check_against
from tasks.release.against.flips import Drawn, check_flips, last_files
from tasks.release.evidence import strict_of
from tasks.store import AGAINST, AGAINST_FILE
from tasks.values import Against, Check, Decision, Flip, Flips, FlipsPart, ModelVersion, Night, have
from tasks.workspace import Workspace

log = logging.getLogger("grayline")

_JUDGING = (
    resnet_core.evaluation, resnet_core.images, resnet_core.inference, resnet_core.model, resnet_core.reading,
    tasks.release.against, tasks.release.evidence, tasks.release.labelled,
)  # fmt: skip


def hold_against(champion: ModelVersion, night: Night, dataset: Dataset, here: Workspace) -> Against:
    """Hold the night's version against the champion, or read what an earlier night has found by doing so.

    The champion's files are checked in any case, and `register` has checked the version's.
    """
    version, learned = have(night.version), learned_from(champion, here)
    drawn = last_files(champion.name, dataset.gate.flips_images, here)
    question = _question(champion, learned, drawn, night, dataset, here)
    if found := _read(have(night.checkpoint).folder / AGAINST, question):
        log.info("gate        nothing has changed since %s was held against %s", version, champion)
        return found
    checks, lasts = check_against(champion, learned, night, dataset, here)
    check, flips = check_flips(drawn, champion, version, dataset, here)
    lasts &= not drawn.fault and not (flips and (flips.left_out or flips.secret))
    return Against((*checks, check), flips, question if lasts else "")


def _question(
    champion: ModelVersion, learned: Learned | None, drawn: Drawn, night: Night, dataset: Dataset, here: Workspace
) -> str:
    """Return the digest of all that the answers follow from."""
    shard_set, evaluation = have(night.shard_set), have(night.evaluation)
    return digest_of(
        source_digest(*_JUDGING),
        here.device,
        [champion, have(night.version)],
        [dataset.gate.model_dump(), dataset.evaluate.slices, strict_of(evaluation, dataset.gate) is not None],
        [shard_set.digest, table_digest([facts(night.catalog)])],
        sorted(learned.ids) if learned else None,
        [table_digest([drawn.files]), len(drawn.batches), here.limits],
    )


def keep(decision: Decision, folder: UPath) -> None:
    """Write what was found into the training's folder, once its pages are published. A night goes on without."""
    found = decision.against
    if found is None or found.again or not found.question:
        return
    try:
        with write_folder(folder / AGAINST) as draft:
            (draft / AGAINST_FILE).write_text(json.dumps(asdict(found)), encoding="utf-8")
            write_digests(draft)
    except (JobError, OSError) as error:  # only time is lost
        log.warning(
            "gate        the comparison of %s was not kept (%s): the next night makes it again", decision.version, error
        )


def _read(folder: UPath, question: str) -> Against | None:
    """Return what `keep` has written, unless it answers another question. Whatever cannot be read is found anew."""
    try:
        with as_local(folder) as local:
            if not (local / AGAINST_FILE).exists():
                return None
            check_digests(local)
            found = json.loads((local / AGAINST_FILE).read_text(encoding="utf-8"))
        if found["question"] != question:
            return None
        checks = tuple(Check(**check) for check in found["checks"])
        return Against(checks, _flips_of(found["flips"]) if found["flips"] else None, question, again=True)
    except GONE:
        return None
    except (JobError, OSError, ValueError, KeyError, TypeError) as error:  # only time is lost
        log.warning("gate        %s: %s; it is compared again", folder, error)
        return None


def _flips_of(found: dict[str, Any]) -> Flips:
    """Return what `asdict` has made a mapping of: JSON has neither tuples nor classes."""
    first = [Flip(**each) for each in found["first"]]
    made: dict[str, Any] = {
        "old": ModelVersion(**found["old"]),
        "new": ModelVersion(**found["new"]),
        "share": Interval(**found["share"]),
        "kinds": tuple(tuple(kind) for kind in found["kinds"]),
        "parts": tuple(FlipsPart(**part) for part in found["parts"]),
        "first": tuple(replace(flip, old=(*flip.old,), new=(*flip.new,)) for flip in first),
    }
    return Flips(**found | made)
