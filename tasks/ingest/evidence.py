"""Evidence: what the data checks look at, out of the catalog, its history and the pixels."""

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE
from upath import UPath

from resnet_core.catalog import history, queries
from resnet_core.catalog.queries import Place
from resnet_core.drift import summary as data_summary
from resnet_core.drift.summary import Summary
from resnet_core.images.preprocessing import Gray
from resnet_core.plotting.sheets import CLASSES, PAIRS, SAMPLES, ConflictPair
from resnet_core.shards.encryption import Keys
from resnet_core.storage import database
from tasks.dataset import Dataset
from tasks.ingest.pixels import read_pixels
from tasks.store import versions_folder
from tasks.values import Catalog


@dataclass(frozen=True)
class _Evidence:
    """`now` sums up tonight's images, `last` those of the last accepted night, `new` those that came
    since."""

    now: Summary
    last: Summary | None
    new: Summary | None
    samples: dict[str, list[Gray]]
    conflicts: list[ConflictPair]


@task(cache_policy=NO_CACHE)
def gather(
    catalog: Catalog,
    accepted: tuple[str, Summary] | None,
    pixels: UPath,
    dataset: Dataset,
    store: UPath,
    keys: Keys | None = None,
) -> _Evidence:
    """accepted: the catalog's version of the last accepted night, and its summary."""
    with database.database() as db:
        queries.load(db, catalog.path)
        new = None
        if accepted:
            changes = history.difference(versions_folder(store, dataset.name), int(accepted[0]), catalog.version)
            new = _summary_of(queries.present(db, data_summary.COLUMNS, changes))
        now = _summary_of(queries.present(db, data_summary.COLUMNS))
        sampled = queries.samples(db, SAMPLES, CLASSES)
        pairs = queries.conflicts(db, PAIRS)
    size = dataset.image.size

    def load(place: Place) -> Gray:
        image: Gray = read_pixels(pixels / place.part, [place.uri], size, keys)[0]
        return image

    samples: dict[str, list[Gray]] = {}
    for place in sampled:
        samples.setdefault(place.label, []).append(load(place))
    conflicts = [ConflictPair(load(a), a.label, a.uri, load(b), b.label, b.uri) for a, b in pairs]
    return _Evidence(now, accepted[1] if accepted else None, new, samples, conflicts)


def _summary_of(pieces: Iterable[pa.Table]) -> Summary:
    return sum(map(data_summary.summarise, pieces), Summary())
