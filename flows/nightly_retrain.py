"""The nightly flow: from a folder of images to a model version that is the champion, or is not."""

from typing import Literal

from prefect import flow

from tasks.dataset import load_dataset
from tasks.evaluate import evaluate
from tasks.gate import judge
from tasks.ingest import read_part, scan, write_catalog
from tasks.preprocess import finish_shards, plan_shards, write_shard
from tasks.promote import promote
from tasks.register import register
from tasks.report import report_night
from tasks.runner import follow, task_runner
from tasks.settings import Settings, check_store
from tasks.train import train
from tasks.values import Night

Stage = Literal["ingest", "preprocess", "train", "evaluate", "register", "gate"]


@flow(
    name="nightly-retrain",
    task_runner=task_runner(),
)
def nightly_retrain(dataset: str, until: Stage = "gate") -> Night:
    """Ingest, preprocess, train, evaluate and register; then the gate decides on the promotion.

    What is unchanged since an earlier night is not done again.

    Args:
        dataset: Path of the data set file, for example data/elpv.yaml.
        until: The last stage to run; the gate is the whole night.
    """
    settings, data = Settings(), load_dataset(dataset)
    store, tracking_uri = settings.root, settings.tracking_uri
    check_store(store)

    listing = scan(data, store, settings.max_pixels)
    reading = [read_part.submit(part, data.image, settings.max_pixels) for part in listing.unread]
    follow("ingest", reading, (len(part.files) for part in listing.unread))
    catalog = write_catalog(listing, data, store)
    night = Night(catalog)
    if until == "ingest":
        return report_night(night)

    plans = plan_shards(catalog, listing.pixels, data, store)
    written = [write_shard.submit(plan, catalog, data.image) for plan in plans]
    shard_set = finish_shards(plans, [future.result() for future in written], catalog, data)
    night = Night(catalog, shard_set)
    if until == "preprocess":
        return report_night(night)

    checkpoint = train(shard_set, data, store, tracking_uri, settings.device, settings.resident_bytes)
    night = Night(catalog, shard_set, checkpoint)
    if until == "train":
        return report_night(night)

    evaluation = evaluate(checkpoint, shard_set, tracking_uri, settings.device)
    night = Night(catalog, shard_set, checkpoint, evaluation)
    if until == "evaluate":
        return report_night(night)

    version = register(checkpoint, evaluation, catalog, shard_set, tracking_uri)
    night = Night(catalog, shard_set, checkpoint, evaluation, version)
    if until == "register":
        return report_night(night)

    decision = judge(version, evaluation, catalog, shard_set, data.gate, tracking_uri, settings.device)
    if decision.promoted:
        promote(tracking_uri, version.name, version.version, f"gate: {decision.reason}")
    return report_night(Night(catalog, shard_set, checkpoint, evaluation, version, decision))
