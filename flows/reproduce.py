"""Reproduce: train a registered version again from its own record."""

from prefect import flow

from resnet_core.shards.encryption import Keys
from tasks.ingest.pixels import pixel_folder
from tasks.ingest.preprocess import finish_shards, plan_shards, write_shard
from tasks.registry.versions import resolve
from tasks.release.reproduce import Origin, Reproduction, catalog_now, check_plans, find_shards, recall, train_again
from tasks.runner import fan_out, task_runner
from tasks.settings import Settings, check_store, keys_for
from tasks.values import ShardSet


@flow(name="reproduce", task_runner=task_runner())
def reproduce(model: str) -> Reproduction:
    """Train a version again from its recorded data, settings and seeds, and compare the weights.

    Args:
        model: NAME@ALIAS or NAME/VERSION; NAME alone is its champion.
    """
    settings = Settings()
    check_store(settings.root)
    origin = recall(resolve(settings.tracking_uri, model), settings.tracking_uri)
    keys = keys_for(origin.dataset.encrypt, settings)
    shard_set = find_shards(origin, settings.root) or _make_shards(origin, settings, keys)
    return train_again(origin, shard_set, settings.root, settings.tracking_uri, settings.device, keys, settings.runner)


def _make_shards(origin: Origin, settings: Settings, keys: Keys | None) -> ShardSet:
    """Make the version's shards again, from the catalog and the cache of pixels."""
    data, store = origin.dataset, settings.root
    catalog = catalog_now(origin, store)
    pixels = pixel_folder(store, data.name, data.image, settings.limits, data.encrypt)
    plans = plan_shards(catalog, pixels, data, store)
    check_plans(origin, plans[0].path.parent.name, catalog)
    written = fan_out(
        "preprocess",
        lambda plan: write_shard.submit(plan, catalog, data.image, keys),
        plans,
        sum(plan.count for plan in plans),
    )
    return finish_shards(plans, written, catalog, data)
