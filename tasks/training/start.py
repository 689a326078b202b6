"""Start: the weights that a training begins with, and the images that its version will have learned from."""

import logging

from upath import UPath

from tasks.dataset import Dataset
from tasks.registry.champion import last_champion
from tasks.registry.images import Learned, learned_from
from tasks.registry.versions import CHAMPION, by_alias, checkpoint_of
from tasks.training.run import is_whole
from tasks.values import ShardSet
from tasks.workspace import Workspace

log = logging.getLogger("grayline")


def start_of(dataset: Dataset, shard_set: ShardSet, here: Workspace) -> tuple[UPath | None, Learned]:
    """Return the folder of the champion's training, if this one starts from it; and the images that it learns from.

    A champion that has learned from a test image is not a start: the version would be tested on what it knows.
    """
    learned = Learned.of(shard_set, here.keys)
    if dataset.train.start != "champion":
        return None, learned
    # Who deletes the alias has not deleted the version: the gate will compare with it, too.
    champion = by_alias(here.tracking_uri, dataset.name, CHAMPION) or last_champion(here.tracking_uri, dataset.name)
    if champion is None:
        return None, learned
    folder = here.store.runs(dataset.name) / checkpoint_of(here.tracking_uri, champion)
    if not is_whole(folder):
        log.warning("train       the champion's training is gone from %s: starting from scratch", folder)
        return None, learned
    known = learned_from(champion, here)
    seen = "an unknown number" if known is None else f"{known.count_tested(shard_set, here.keys):,}"
    if known is None or seen != "0":
        log.warning("train       the champion has learned from %s of the test images: starting from scratch", seen)
        return None, learned
    return folder, learned | known
