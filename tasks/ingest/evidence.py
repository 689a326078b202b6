"""Evidence: the facts for the data checks, from the catalog, its history and the pixels."""

from collections.abc import Iterable

import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE

from resnet_core.catalog import history, queries
from resnet_core.catalog.queries import Place
from resnet_core.drift.summary import CATALOG_COLUMNS, Summary, summarise
from resnet_core.images.preprocessing import Gray
from resnet_core.plotting.sheets import CLASSES, PAIRS, SAMPLES, ConflictPair
from resnet_core.storage import database
from tasks.dataset import Dataset
from tasks.ingest.checks import Evidence, last_accepted
from tasks.ingest.pixels import pixel_folder, read_pixels
from tasks.values import Catalog
from tasks.workspace import Workspace


@task(cache_policy=NO_CACHE)
def gather(catalog: Catalog, dataset: Dataset, here: Workspace) -> Evidence:
    """Sum up tonight's catalog and the new images, and read the pixels of samples and of conflicts."""
    pixels, size = pixel_folder(dataset, catalog.image, here), catalog.image.size
    accepted = last_accepted(here.store.checks(dataset.name), catalog.version)
    with database.database() as db:
        queries.load(db, catalog.path)
        new = None
        if accepted:
            changes = history.difference(here.store.history(dataset.name), int(accepted[0]), catalog.version)
            new = _summary_of(queries.present(db, CATALOG_COLUMNS, changes))
        now = _summary_of(queries.present(db, CATALOG_COLUMNS))
        sampled = queries.samples(db, SAMPLES, CLASSES)
        pairs, alike = queries.conflicts(db, PAIRS), queries.look_alikes(db, PAIRS)

    def load(place: Place) -> Gray:
        image: Gray = read_pixels(pixels / place.part, [place.uri], size, here.keys)[0]
        return image

    samples: dict[str, list[Gray]] = {}
    for place in sampled:
        samples.setdefault(place.label, []).append(load(place))
    conflicts = [ConflictPair(load(a), a.label, a.uri, load(b), b.label, b.uri) for a, b in pairs]
    look_alikes = [
        ConflictPair(load(a), f"test, {a.label}", a.uri, load(b), f"train, differs by {residual:.2g}", b.uri)
        for a, b, residual in alike
    ]
    return Evidence(now, accepted[1] if accepted else None, new, samples, conflicts, look_alikes)


def _summary_of(pieces: Iterable[pa.Table]) -> Summary:
    return sum(map(summarise, pieces), Summary())
