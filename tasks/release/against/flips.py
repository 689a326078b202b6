"""Flips: decisions that another version takes otherwise, on files of the last batches or of any source."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import scipy
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.evaluation.bootstrap import Interval
from resnet_core.evaluation.slices import find_slices
from resnet_core.images.limits import Limits
from resnet_core.inference.scores import read_scores
from resnet_core.model.classifier import Classifier
from resnet_core.patience import UnreachableError, patiently
from resnet_core.plotting.thumbnails import in_order
from resnet_core.reading.pool import end_idle
from resnet_core.reasons import ReasonCode
from resnet_core.shards.format import unpacked
from resnet_core.sources import shard_files
from resnet_core.sources.locate import locate
from resnet_core.sources.source import source_kind
from resnet_core.storage.files import DamagedFileError, to_path
from resnet_core.storage.locations import is_url
from tasks.batch.folder import absolute_source
from tasks.batch.manifest import read_manifest
from tasks.batch.plan import list_files
from tasks.batch.values import Scores
from tasks.dataset import Dataset
from tasks.parts import SCHEMA
from tasks.progress import progress
from tasks.registry.runs import client
from tasks.registry.versions import is_confidential, load_classifier
from tasks.release.labelled import readings
from tasks.store import Store
from tasks.values import CERTAIN, Check, Flip, Flips, FlipsPart, ModelVersion
from tasks.workspace import Workspace

MEASURED = ("brightness", "contrast", "sharpness", "width")  # what slices are cut by, of an image without labels
_FAILED = "(failed)"  # the decision of a version that cannot take a file's gray levels
_OF_A_VERSION = (ReasonCode.LEVELS_UNKNOWN, ReasonCode.BEYOND_LEVELS)
_RUNS, _BATCHES = 20, 5  # batches that are looked at, and the last ones of them, that images are drawn from
_PARTS = 64  # files of rows of a batch
_AT_ONCE = 256  # images
_SECONDS = 600.0  # of reading and scoring
_SHOWN = 200  # flips that are kept


@dataclass(frozen=True)
class Drawn:
    """`files` of the last batches that are there, a listing, and the batches. `fault`: why none could be looked for."""

    files: pa.Table
    batches: tuple[Scores, ...] = ()
    fault: str = ""


def last_files(name: str, most: int, here: Workspace) -> Drawn:
    """Draw at most so many files that are there from the last batches, alike from each.

    The same files are drawn every night, as long as they are there: by the hash of their URIs.
    """
    try:
        batches = _last_batches(name, here)
        ranked = sorted(
            (rank, k, uri) for k, each in enumerate(batches) for rank, uri in enumerate(_draw(each.parts, most))
        )
        uris, found = list(dict.fromkeys(uri for _, _, uri in ranked)), [locate(())]
        for start in range(0, len(uris), most):
            files = locate(uris[start : start + most])
            own = pc.not_equal(files["kind"].fill_null(""), shard_files.KIND)  # shards hold no files
            found.append(files.filter(pc.and_(files["size"].is_valid(), own)))
            if sum(map(len, found)) >= most:
                break
    except UnreachableError as error:
        return Drawn(locate(()), fault=str(error))
    return Drawn(_by_place(pa.concat_tables(found).slice(0, most)), tuple(batches))


def check_flips(
    drawn: Drawn, champion: ModelVersion, version: ModelVersion, dataset: Dataset, here: Workspace
) -> tuple[Check, Flips | None]:
    """Compare both on files of the last batches.

    Without a batch the check passes. With a limit it fails if files cannot be looked for, or most cannot be read.
    """
    gate, files, batches = dataset.gate, drawn.files, drawn.batches
    wanted = "shown, not judged" if gate.flips is None else f"at most {gate.flips:.1%} of decisions"
    if drawn.fault:
        return Check("flips", wanted, f"cannot be told: {drawn.fault}", passed=gate.flips is None), None
    last = "the last batch" if len(batches) == 1 else f"the last {len(batches)} batches"
    if not len(files):
        none = f"no file of {last} is there any more" if batches else "no batch yet"
        return Check("flips", wanted, none, passed=True), None
    columns = [name for name in MEASURED if name in dataset.evaluate.slices]
    found = compare_on(files, (champion, version), f"of {last}", columns, here)
    found = replace(found, secret=found.secret or any(batch.confidential for batch in batches))
    few = "; fewer than half could be compared" * (found.images < sum(found.left_out.values()))
    passed = gate.flips is None or (not few and found.share.value <= gate.flips)
    return Check("flips", wanted, found.in_words() + few, passed), found


def _last_batches(name: str, here: Workspace) -> list[Scores]:
    registry = client(here.tracking_uri)
    experiment = registry.get_experiment_by_name(f"{name}-scores")
    if experiment is None:
        return []
    runs = registry.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"], max_results=_RUNS)
    places = dict.fromkeys(run.data.params.get("output", "") for run in runs)
    found = {str(batch.output): batch for place in places if place and (batch := _batch_at(place, name, here.store))}
    return sorted(found.values(), key=lambda batch: batch.finished, reverse=True)[:_BATCHES]


def _batch_at(place: str, name: str, store: Store) -> Scores | None:
    """Return the model's batch; None if it was deleted, or has begun anew. In a store that has moved, look there."""
    for folder in (place, str(store.scores() / place.rstrip("/").rpartition("/")[2])):
        try:
            found = _read(lambda each: read_manifest(to_path(each)), folder)
        except (OSError, ValueError, KeyError, UserError, DamagedFileError):  # nothing, or nothing whole, lies there
            continue
        if found.model.name == name:
            return found
    return None


def _read(look: Callable[[str], Any], place: str) -> Any:
    """Read patiently. A local file that may not be read is there: only object stores mean "missing" by that."""
    try:
        return patiently(look, place)
    except PermissionError as error:
        if is_url(place):
            raise
        raise UnreachableError(f"{place}: may not be read ({error.strerror}). Mend its rights; run it again.") from None


def _draw(parts: Sequence[UPath], most: int) -> list[str]:
    """Return the URIs of good rows, those with the least hashes; of a large batch, of some of its parts."""
    drawn = pa.table({"uri": pa.array([], pa.string())})
    for place in np.unique(np.linspace(0, len(parts) - 1, min(len(parts), _PARTS)).round().astype(int)).tolist():
        drawn = _least(pa.concat_tables([drawn, _good_rows(parts[place]).cast(drawn.schema)]), most)
    return list(drawn["uri"].to_pylist())


def _good_rows(part: UPath) -> pa.Table:
    """Return the URIs of a part's good rows; none if it is gone."""

    def read(_: str) -> pa.Table:
        return read_scores(part, ["uri", "status"])

    try:
        rows = _read(read, str(part))
    except (OSError, ValueError, DamagedFileError):  # lost, or scored again meanwhile
        return pa.table({"uri": []})
    return rows.filter(pc.equal(rows["status"], "ok")).select(["uri"])


def _least(files: pa.Table, most: int) -> pa.Table:
    """Return the rows with the least hashes of their URIs."""
    hashes = pd.util.hash_array(files["uri"].to_numpy().astype(object))
    return files.take(np.argsort(hashes, kind="stable")[:most])


def _by_place(files: pa.Table) -> pa.Table:
    """Sort files so that an archive is read from front to back."""
    return files.take(pa.array(in_order(files, np.arange(len(files))), pa.int64()))


def draw_files(source: str, most: int) -> tuple[pa.Table, int]:
    """Return at most so many files of a source, drawn by their URIs, and the number of its files.

    Raises UserError for a source without images.
    """
    place = absolute_source(source)
    if source_kind(place) == "shards":
        raise UserError(f"--source: {source} holds shards, whose pixels are made for one version. Name the images.")
    drawn, count = SCHEMA.empty_table(), 0
    for batch in list_files(place):
        files = pa.Table.from_batches([batch]).filter(pc.invert(batch["ignored"].fill_null(False)))
        empty = {"size": 0, "modified": ""}  # a list may name files that are not there
        columns = [files[name].fill_null(empty[name]) if name in empty else files[name] for name in SCHEMA.names]
        drawn = _least(pa.concat_tables([drawn, pa.table(columns, SCHEMA.names).cast(SCHEMA)]), most)
        count += len(files)
    if not count:
        raise UserError(f"--source: {source} holds no images. Give a folder of images.")
    return _by_place(drawn), count


def compare_on(
    files: pa.Table, versions: tuple[ModelVersion, ModelVersion], of: str, columns: Sequence[str], here: Workspace
) -> Flips:
    """Let both versions, the old one first, decide on files of a listing. of: says which files these are.

    columns: of MEASURED, those that slices are cut by. It ends after _SECONDS; other files are then left out.
    """
    uri, device, ends = here.tracking_uri, here.device, time.monotonic() + _SECONDS
    both = [load_classifier(uri, each, device) for each in versions]
    secret = here.keys is not None or any(is_confidential(uri, each, device) for each in versions)
    rows: list[dict[str, Any]] = []
    with progress("flips", len(files)) as advance:
        for start in range(0, len(files), _AT_ONCE):
            here.check_time("the gate's other checks")
            if time.monotonic() > ends:
                break
            some = files.slice(start, _AT_ONCE)
            rows += _decide(some, both, here.limits)
            advance(len(some))
    end_idle()
    left_out = Counter(row["why"] for row in rows if row["why"])
    left_out[f"not read within {_SECONDS / 60:.0f} minutes"] = len(files) - len(rows)
    return _counted([row for row in rows if not row["why"]], versions, of, columns, +left_out, secret)


def _decide(files: pa.Table, both: Sequence[Classifier], limits: Limits) -> Iterator[dict[str, Any]]:
    """Yield a row per file: uri, MEASURED, the decisions `old` and `new`. `why` the file does not count may be "".

    Gray levels that only one version cannot take are its decision. Any other fault says nothing of a version.
    """
    names, found = ("old", "new"), [dict[str, Any](uri=uri, codes=[]) for uri in files["uri"].to_pylist()]
    for start, images, takers in readings(files, both, limits):
        codes = images["reason_code"].to_pylist()
        good = np.flatnonzero(images["reason_code"].is_null().to_numpy())
        pixels = unpacked(images["pixels"], takers[0][1].preprocessing.size)[good]
        rows = found[start : start + len(images)]
        for row, facts, code in zip(rows, images.select([*MEASURED, "height"]).to_pylist(), codes, strict=True):
            row |= {name: value for name, value in facts.items() if value is not None or name not in row}
            row["codes"] += [code] * len(takers)
            row |= {names[k]: (_FAILED, 0.0) for k, _ in takers if code in _OF_A_VERSION}
        for k, classifier in takers:
            for place, decision in zip(good.tolist(), classifier.decide(classifier.probabilities(pixels)), strict=True):
                rows[place][names[k]] = (decision.label, decision.confidence)
    for row in found:
        codes = sorted(filter(None, row.pop("codes")), key=lambda code: code in _OF_A_VERSION)
        answered = row.keys() >= set(names) and not row["old"][0] == row["new"][0] == _FAILED
        yield row | {"why": "" if answered else ReasonCode(codes[0]).words}


def _counted(
    rows: list[dict[str, Any]],
    versions: tuple[ModelVersion, ModelVersion],
    of: str,
    columns: Sequence[str],
    left_out: Counter[str],
    secret: bool,
) -> Flips:
    same = np.array([row["old"][0] == row["new"][0] for row in rows], dtype=bool)
    flips = [
        Flip(row["uri"], row["old"], row["new"], max(row["width"] or 0, row["height"] or 0) or None)
        for row, each in zip(rows, same, strict=True)
        if not each
    ]
    flips.sort(key=lambda flip: (-flip.old[1], flip.uri))
    labels, flipped = Counter(row["old"][0] for row in rows), Counter(flip.old[0] for flip in flips)
    slices = find_slices(same, {name: [row[name] for row in rows] for name in columns}) if rows else []
    low, high = scipy.stats.binomtest(len(flips), len(rows)).proportion_ci(method="wilson") if rows else (0.0, 1.0)
    kinds = Counter((flip.old[0], flip.new[0]) for flip in flips)
    return Flips(
        *versions,
        of=of,
        images=len(rows),
        count=len(flips),
        share=Interval(len(flips) / max(1, len(rows)), float(low), float(high)),
        left_out=dict(sorted(left_out.items(), key=lambda item: (-item[1], item[0]))),
        certain=sum(flip.old[1] >= CERTAIN for flip in flips),
        kinds=tuple((*pair, count) for pair, count in kinds.most_common()),
        parts=(
            *(FlipsPart(repr(name), count, flipped[name]) for name, count in labels.most_common()),
            *(FlipsPart(s.name, s.images, round(s.images * (1 - s.accuracy.value)), s.worse) for s in slices),
        ),
        first=tuple(flips[:_SHOWN]),
        secret=secret,
    )
