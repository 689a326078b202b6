"""Reproduce: train a registered version again from its own record."""

from prefect import flow

from flows.nightly_retrain import make_shards
from tasks.ingest.preprocess import plan_shards
from tasks.registry.versions import resolve
from tasks.release.reproduce import Origin, Reproduction, catalog_now, check_plans, recall, train_again
from tasks.runner import run_name, task_runner
from tasks.values import ShardSet
from tasks.workspace import Workspace, workspace


@flow(name="reproduce", flow_run_name=run_name, task_runner=task_runner())
def reproduce(model: str) -> Reproduction:
    """Train a version again from its recorded data, settings and seeds, and compare the weights.

    Args:
        model: NAME@ALIAS or NAME/VERSION; NAME alone is its champion.
    """
    here = workspace()
    origin = recall(resolve(here.tracking_uri, model), here)
    here = here.of(origin.dataset)
    shard_set = ShardSet.open(here.store.shards(origin.dataset.name) / origin.shards) or _shards_again(origin, here)
    return train_again(origin, shard_set, here)


def _shards_again(origin: Origin, here: Workspace) -> ShardSet:
    """Make the version's shards once more, from the catalog and the cache of pixels."""
    catalog = catalog_now(origin, here)
    check_plans(origin, plan_shards(catalog, origin.dataset, here), catalog)
    return make_shards(catalog, origin.dataset, here)
