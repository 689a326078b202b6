"""The nightly flow: from a folder of images to a model version, promoted if the gate accepts it."""

import time
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from prefect import flow
from prefect.futures import PrefectFuture

from flows.prune import after_the_night
from resnet_core.errors import OverstayedError
from resnet_core.storage.turns import OccupiedError, turn
from tasks.dataset import Dataset, load_dataset
from tasks.evaluation.evaluate import evaluate
from tasks.evaluation.explain import explain
from tasks.ingest.catalog import write_catalog
from tasks.ingest.checks import check_data
from tasks.ingest.evidence import gather
from tasks.ingest.levels import decide_levels
from tasks.ingest.pixels import read_part
from tasks.ingest.preprocess import finish_shards, plan_shards, write_shard
from tasks.ingest.scan import scan
from tasks.parts import Part
from tasks.release.against.kept import keep
from tasks.release.gate import judge
from tasks.release.promote import carry_out
from tasks.release.register import register
from tasks.report.flips_page import publish_flips
from tasks.report.night_page import report_night
from tasks.runner import fan_out, run_name, task_runner
from tasks.training.train import train
from tasks.values import Catalog, Night, Scan, ShardSet, have
from tasks.watch.rules import remember_a_killed_night, stood_back, tell_of_a_failure, watch_night
from tasks.workspace import Workspace, workspace

_Stage = Literal["ingest", "preprocess", "train", "evaluate", "register", "gate"]


@flow(name="nightly-retrain", flow_run_name=run_name, task_runner=task_runner(), on_failure=[tell_of_a_failure])
def nightly_retrain(dataset: str, until: _Stage = "gate") -> Night:
    """Ingest, preprocess, train, evaluate and register; then the gate decides on the promotion.

    Work that an earlier night has done on the same inputs is reused. A data set has one night at a time.

    Args:
        dataset: Path of the data set file, for example data/elpv.yaml.
        until: The last stage to run; `gate` runs the whole night.
    """
    began, data = time.monotonic(), load_dataset(dataset)
    here = workspace(data)
    try:
        with turn(here.store.turn(data.name)) as follows_a_killed_one:
            if follows_a_killed_one:
                remember_a_killed_night(here.store, data.name)
            night = ingest(data, here)
            for number, stage in enumerate(_STAGES[: get_args(_Stage).index(until)]):
                here.check_time(get_args(_Stage)[number])
                night = stage(night, data, here)
            night = report_night(night, here)
            watch_night(night, here, time.monotonic() - began)
    except (OccupiedError, OverstayedError) as error:
        return stood_back(error, here.store, data.name)
    after_the_night()
    return night


def ingest(data: Dataset, here: Workspace) -> Night:
    """Bring the catalog up to date, and check its data. Raises DataCheckError if a check fails the night."""
    source = scan(data, here)
    _read(source, source.unread, here)
    source, undecided = decide_levels(source, data, here)
    _read(source, undecided, here)
    catalog = write_catalog(source, data, here)
    return Night(catalog, check_data(gather(catalog, data, here), catalog, data, here))


def _read(source: Scan, parts: Sequence[Part], here: Workspace) -> None:
    def submit(part: Part) -> PrefectFuture[int]:
        here.check_time("a part of the images was read")
        return read_part.submit(part, source.image, here.limits, here.keys)

    fan_out("ingest", submit, parts, sum(part.count for part in parts))


def preprocess(night: Night, data: Dataset, here: Workspace) -> Night:
    """Make the shards of the catalog's good images."""
    return night.with_(shard_set=make_shards(night.catalog, data, here))


def make_shards(catalog: Catalog, data: Dataset, here: Workspace) -> ShardSet:
    """Write the shards that are not there yet, side by side."""
    plans = plan_shards(catalog, data, here)
    images = sum(plan.count for plan in plans)
    written = fan_out("preprocess", lambda plan: write_shard.submit(plan, catalog, here.keys), plans, images)
    return finish_shards(plans, written, catalog, data)


def shards_of(data: Dataset, here: Workspace) -> tuple[Night, ShardSet]:
    """Run the night as far as the shards, for the flows that begin there. Wait for a night that is at work."""
    with turn(here.store.turn(data.name), wait=True):
        night = preprocess(ingest(data, here), data, here)
    return night, have(night.shard_set)


def _train(night: Night, data: Dataset, here: Workspace) -> Night:
    with turn(here.store.machine_turn(), wait=True):  # the nights of several data sets share cores, or a GPU, in turn
        here.check_time("preprocess")
        return night.with_(checkpoint=train(night, data, here))


def _evaluate(night: Night, data: Dataset, here: Workspace) -> Night:
    night = night.with_(evaluation=evaluate(night, data, here))
    explain(night, here)
    return night


def _register(night: Night, data: Dataset, here: Workspace) -> Night:
    return night.with_(version=register(night, here))


def _gate(night: Night, data: Dataset, here: Workspace) -> Night:
    night = night.with_(decision=judge(night, data, here))
    publish_flips(have(night.decision), here)
    keep(have(night.decision), have(night.checkpoint).folder)
    carry_out(have(night.decision), here.tracking_uri)
    return night


_STAGES: tuple[Callable[[Night, Dataset, Workspace], Night], ...] = (preprocess, _train, _evaluate, _register, _gate)
