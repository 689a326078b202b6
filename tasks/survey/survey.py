"""Survey: look at a source before its first night, and at the settings that its data set will have.

A source of up to MOST images is ingested whole, into a store that is thrown away: its classes, split and look-alikes
are those of the first night. The list of a larger one is read whole, and a sample of its images.
"""

import io
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from upath import UPath

from resnet_core.annotations.exports import labels_of, read_label_texts
from resnet_core.device import find_device
from resnet_core.errors import UserError
from resnet_core.reading.pool import read_files
from resnet_core.shards.format import unpacked
from resnet_core.sources.fetch import open_files
from resnet_core.sources.source import source_kind
from resnet_core.storage import database
from resnet_core.storage.files import to_path
from resnet_core.storage.names import fold_label
from resnet_core.training.rate import training_rate
from tasks.dataset import Dataset
from tasks.defaults.settle import Sample, choose_for, settle, settle_size
from tasks.ingest.scan import list_files
from tasks.store import Store
from tasks.survey.alone import ingest_alone, shards_alone
from tasks.values import Catalog
from tasks.workspace import Workspace

MOST = 3000  # images that are read whole
_SAMPLE, _PEEKED = 256, 64  # images whose size is read, and whose format
_TABLES = ("*.csv", "*.tsv", "*.parquet", "*.json", "*.jsonl", "*.xml")
_MODES = {
    "1": "1-bit", "L": "8-bit gray", "LA": "8-bit gray with alpha", "P": "palette", "I": "32-bit gray", "F": "float",
    "I;16": "16-bit gray", "I;16B": "16-bit gray", "RGB": "8-bit color", "RGBA": "8-bit color with alpha",
}  # fmt: skip
_TRAINED = 0.75  # share of the images that are not held out


@dataclass(frozen=True)
class Survey:
    """The content of a source. sides: of the shorter side in pixels, least, median and largest of the read images.

    classes: images by class; of a whole ingest the good ones. formats: of some files. rate: images read a second.
    catalog: of the whole ingest; None for a source of more than MOST images. splits: that the source itself gives.
    settled: the settings that a data set file without any has now.
    """

    source: str
    labels: str | None
    columns: tuple[str, ...]
    images: int
    unlabelled: int
    ignored: int
    classes: dict[str, int]
    splits: tuple[str, ...]
    sides: tuple[int, int, int]
    formats: dict[str, int]
    unread: dict[str, int]
    rate: float
    catalog: Catalog | None
    settled: Dataset

    @property
    def largest(self) -> tuple[str, float]:
        """Return the largest class and its share."""
        name = max(self.classes, key=lambda label: self.classes[label])
        return name, self.classes[name] / sum(self.classes.values())


def find_labels(source: str) -> list[str]:
    """Return the tables and exports beside the images, or the archive itself, if they name files and classes."""
    kind, place = source_kind(source), to_path(source)
    if kind in ("tar", "zip"):
        return [source] if _holds_labels(place) else []
    if kind != "folder":
        return []
    paths = sorted(path for pattern in _TABLES for path in place.glob(pattern))
    return [f"{source.rstrip('/')}/{path.name}" for path in paths if _holds_labels(path)]


def _holds_labels(path: UPath) -> bool:
    """Return whether a file gives a label at least; folders of an archive are classes without it."""
    try:
        found = labels_of(path)
    except UserError:
        return False  # a table of something else
    return found is not None and found.rows["label"].null_count < len(found.rows) and not found.folders


def survey(source: str, labels: str | None, here: Workspace) -> Survey:
    """Look at a source. Raises UserError, as the first night would, for one that cannot be learned from."""
    dataset = Dataset(name="survey", source=source, labels=labels)
    with tempfile.TemporaryDirectory(prefix="grayline-") as scratch, database.database() as db:
        ignored, given = list_files(db, dataset, here.store.own_places())
        files = "listed where not coalesce(ignored, false) and size is not null"
        images, unlabelled = db.sql(f"select count(*), count(*) filter (label is null) from {files}").fetchall()[0]
        labelled = f"select label, count(*) from {files} and label is not null group by label order by label"
        counts = {fold_label(label): count for label, count in db.sql(labelled).fetchall()}
        sample = db.sql(f"select * from {files} order by hash(uri) limit {_SAMPLE}").to_arrow_table()
        began = time.monotonic()
        read = read_files(sample, dataset.image, here.limits)
        rate = len(sample) / (time.monotonic() - began)
        whole = replace(here, store=Store(UPath(scratch))) if images <= MOST else None
        with _quiet():
            catalog = ingest_alone(dataset, whole) if whole else None
            if whole and catalog:
                settled = settle(shards_alone(catalog, dataset, whole), dataset, whole)
            elif len(counts) > 1:
                settled = _settled(dataset, counts, settle_size(dataset, db, {}, here)[0], (sample, read), here)
    columns = tuple(read_label_texts(to_path(labels))[0].column_names) if labels else ()
    if catalog and catalog.placement:
        counts = {each.label: each.placed + each.waiting for each in catalog.placement.classes}
    if len(counts) < 2:
        raise UserError(
            f"{source}: a classifier needs two classes or more, found {', '.join(map(repr, counts)) or 'none'}. "
            "Put images into one folder a class, or name a table of labels with --labels."
        )
    unread = Counter(text for text in read["reason"].drop_null().to_pylist())
    return Survey(
        source, labels, columns, images, unlabelled, ignored, counts, given, _sides(read), _formats(sample),
        dict(unread), rate, catalog, settled,
    )  # fmt: skip


def _settled(
    dataset: Dataset, counts: dict[str, int], size: int, read: tuple[pa.Table, pa.Table], here: Workspace
) -> Dataset:
    """Return the settings of a source that is not ingested, from its list and some files and their pixels."""
    files, images = read
    trained = {label: max(1, round(_TRAINED * count)) for label, count in counts.items()}

    def sample() -> Sample:
        labels = [fold_label(label or "") for label in files["label"].to_pylist()]
        places = np.array([[*trained].index(label) if label in trained else -1 for label in labels], np.int64)
        good = (places >= 0) & images["reason_code"].is_null().to_numpy()
        return unpacked(images["pixels"], dataset.image.size)[good], places[good]

    choice = choose_for(dataset, trained, size, sample, here)
    return dataset.settled(choice.values | {"image.size": size}, str(choice))


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out the lines of the stages: what they say is in the survey."""
    log = logging.getLogger("grayline")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _sides(read: pa.Table) -> tuple[int, int, int]:
    shorter = np.minimum(*(read[name].drop_null().to_numpy() for name in ("width", "height")))
    if not len(shorter):
        return 0, 0, 0
    return int(shorter.min()), int(np.median(shorter)), int(shorter.max())


def _formats(sample: pa.Table) -> dict[str, int]:
    """Return the formats of some files, as `PNG 8-bit gray`, the most frequent first."""
    from PIL import Image

    found: Counter[str] = Counter()
    for data in open_files(sample.slice(0, _PEEKED)):
        try:
            with Image.open(io.BytesIO(b"" if isinstance(data, OSError) else data)) as image:
                found[f"{image.format} {_MODES.get(image.mode, image.mode)}"] += 1
        except (OSError, ValueError, SyntaxError):  # Pillow's, for what it does not know
            found["of another format"] += 1
    return dict(found.most_common())


# ---- time
def training_seconds(found: Survey, device: str) -> float:
    """Estimate the training of the first night on this machine from some steps on noise."""
    settled = found.settled
    classes, place = len(found.classes), find_device(device)
    rate = training_rate(settled.model, settled.train, settled.image.size, classes, place)
    return _TRAINED * sum(found.classes.values()) * settled.train.epochs / rate
