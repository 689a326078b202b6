"""The nightly flow: from a folder of images to a model version, promoted if the gate accepts it."""

from typing import Literal

from prefect import flow

from tasks.dataset import load_dataset
from tasks.evaluation.evaluate import evaluate
from tasks.evaluation.explain import explain
from tasks.ingest.catalog import write_catalog
from tasks.ingest.checks import check_data, last_accepted
from tasks.ingest.evidence import gather
from tasks.ingest.pixels import read_part
from tasks.ingest.preprocess import finish_shards, plan_shards, write_shard
from tasks.ingest.scan import scan
from tasks.release.gate import judge
from tasks.release.promote import carry_out
from tasks.release.register import register
from tasks.report.night_page import report_night
from tasks.runner import fan_out, task_runner
from tasks.settings import Settings, check_store, keys_for
from tasks.store import checks_folder
from tasks.training.train import train
from tasks.values import Night

_Stage = Literal["ingest", "preprocess", "train", "evaluate", "register", "gate"]


@flow(
    name="nightly-retrain",
    task_runner=task_runner(),
)
def nightly_retrain(dataset: str, until: _Stage = "gate") -> Night:
    """Ingest, preprocess, train, evaluate and register; then the gate decides on the promotion.

    Work that an earlier night has done on the same inputs is reused.

    Args:
        dataset: Path of the data set file, for example data/elpv.yaml.
        until: The last stage to run; `gate` runs the whole night.
    """
    settings, data = Settings(), load_dataset(dataset)
    store, tracking_uri, limits = settings.root, settings.tracking_uri, settings.limits
    keys = keys_for(data.encrypt, settings)
    check_store(store)

    found = scan(data, store, limits)
    fan_out(
        "ingest",
        lambda part: read_part.submit(part, data.image, limits, keys),
        found.unread,
        sum(part.count for part in found.unread),
    )
    catalog = write_catalog(found, data, store, keys)
    nights = checks_folder(store, data.name)
    evidence = gather(catalog, last_accepted(nights, catalog.version), found.pixels, data, store, keys)
    report = check_data(
        data.name, evidence.now, evidence.last, data.checks, nights / f"{catalog.version:06}", evidence.samples,
        evidence.conflicts, new=evidence.new, quarantine_limit=data.quarantine_limit, encrypted=data.encrypt,
    )  # fmt: skip
    night = Night(catalog, report)
    if until == "ingest":
        return report_night(night, store, tracking_uri)

    plans = plan_shards(catalog, found.pixels, data, store)
    written = fan_out(
        "preprocess",
        lambda plan: write_shard.submit(plan, catalog, data.image, keys),
        plans,
        sum(plan.count for plan in plans),
    )
    shard_set = finish_shards(plans, written, catalog, data)
    night = Night(catalog, report, shard_set)
    if until == "preprocess":
        return report_night(night, store, tracking_uri)

    checkpoint = train(
        shard_set, data, store, tracking_uri, settings.device, settings.resident_bytes, keys, settings.runner
    )
    night = Night(catalog, report, shard_set, checkpoint)
    if until == "train":
        return report_night(night, store, tracking_uri)

    evaluation = evaluate(
        checkpoint, shard_set, tracking_uri, settings.device, keys, catalog, data.evaluate, data.drift
    )
    explain(checkpoint, evaluation, catalog, shard_set, tracking_uri, settings.device, keys)
    night = Night(catalog, report, shard_set, checkpoint, evaluation)
    if until == "evaluate":
        return report_night(night, store, tracking_uri)

    version = register(checkpoint, evaluation, catalog, shard_set, tracking_uri, keys)
    night = Night(catalog, report, shard_set, checkpoint, evaluation, version)
    if until == "register":
        return report_night(night, store, tracking_uri)

    decision = judge(
        version, evaluation, catalog, shard_set, data.gate, tracking_uri, settings.device, keys,
        data=report, slices=data.evaluate.slices,
    )  # fmt: skip
    carry_out(decision, tracking_uri)
    night = Night(catalog, report, shard_set, checkpoint, evaluation, version, decision)
    return report_night(night, store, tracking_uri)
