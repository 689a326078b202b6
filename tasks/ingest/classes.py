"""Classes: which are large enough to be trained and tested on. The others wait until they have grown."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from duckdb import DuckDBPyConnection

from resnet_core.catalog import build, queries
from resnet_core.catalog.queries import ClassSize
from resnet_core.errors import UserError, plural, some_of
from resnet_core.shards.soft_labels import parse
from tasks.dataset import Dataset

log = logging.getLogger("grayline")

_FEWER = 4  # images of a class, if fewer than two have `minimum_images` and nobody has set it
_NAMED = 5


def set_aside(db: DuckDBPyConnection, dataset: Dataset) -> None:
    """Let the small classes wait, with a line.

    A class stays if the labels have placed all of it, or earlier nights have put it on both sides.
    Raises UserError for fewer than two classes.
    """
    sizes = queries.class_sizes(db)
    if len(sizes) < 2:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in queries.frequent_reasons(db))
        raise UserError(
            f"{dataset.source}: only {', '.join(size.label for size in sizes) or 'no class'} is left after quarantine "
            f"({reasons}). A classifier needs good images of two classes."
        )
    least = dataset.minimum_images
    taken = [size for size in sizes if size.stays or size.images >= least]
    if len(taken) < 2 and "minimum_images" not in dataset.model_fields_set:
        least = _FEWER
        taken = [size for size in sizes if size.stays or size.images >= least]
        if len(taken) >= 2:
            log.warning(
                "classes     fewer than two classes have `minimum_images: %d`: classes of %d images or more are taken, "
                "and numbers on so few mean little. Add images, or set `minimum_images`",
                dataset.minimum_images, least,
            )  # fmt: skip
    if len(taken) < 2:
        raise UserError(_too_few(sizes, dataset, least))
    waiting = [size for size in sizes if size not in taken]
    why = "the class has {} of `minimum_images: {}`, and waits for more"
    build.wait(db, {size.label: why.format(plural(size.images, "image"), least) for size in waiting})
    if waiting:
        log.warning(
            "classes     %d of %d wait for `minimum_images: %d`: %s. They come in by themselves",
            len(waiting), len(sizes), least, _listed(waiting),
        )  # fmt: skip
    if small := [size for size in taken if size.images < least and not size.fixed]:
        log.warning(
            "classes     under `minimum_images: %d`, and kept, for earlier nights have images of them in training and "
            "test: %s",
            least, _listed(small),
        )  # fmt: skip
    if grown := [size for size in taken if size.waited]:
        log.info("classes     no longer waiting: %s", _listed(grown))
    _set_aside_soft_labels(db, {size.label for size in waiting})


def _set_aside_soft_labels(db: DuckDBPyConnection, waiting: set[str]) -> None:
    """Let images wait whose soft label names a class that waits: there is nothing to learn its share from."""
    texts = [text for text in queries.soft_labels(db) if waiting & parse(text).keys()] if waiting else []
    if texts:
        count = build.wait_for(db, texts, "its soft label names a class that waits")
        log.warning("classes     %s wait, too: their soft labels name a class that waits", plural(count, "image"))


def set_aside_unlearnable(db: DuckDBPyConnection, dataset: Dataset) -> None:
    """Let classes wait that have no training image once all are placed. Raises UserError for fewer than two others, or
    if nothing is held out.
    """
    lost = queries.unlearnable(db)
    if lost:
        _take_out(db, dataset, lost)
    test, fixed, placed, grouped = queries.held_out(db)
    if not test:
        remedy = "`group` has to tell apart at least two parts of a class" if grouped else "add images"
        again = f"`grayline split --again {dataset.name} --reason TEXT`"
        remedy = f"earlier nights have placed all on other sides: begin anew with {again}" if placed else remedy
        remedy = "give some of them `split` test in the labels, or leave it empty" if fixed else remedy
        raise UserError(f"{dataset.source}: no image can be held out for the test: {remedy}.")


def _take_out(db: DuckDBPyConnection, dataset: Dataset, lost: Mapping[str, str]) -> None:
    texts = {label: f"no image of the class may be trained on: {why}" for label, why in lost.items()}
    listed = some_of([f"{label!r}: {why}" for label, why in lost.items()], _NAMED, "; ")
    if queries.placed_classes(db) - len(lost) < 2:
        raise UserError(
            f"{dataset.source}: fewer than two classes have a training image ({listed}). "
            "Add images, of other groups where there are groups, or correct `split` in the labels."
        )
    build.take_out(db, texts)
    log.warning("classes     %d wait for a training image: %s", len(lost), listed)


def _too_few(sizes: Sequence[ClassSize], dataset: Dataset, least: int) -> str:
    counts = sorted((size.images for size in sizes), reverse=True)
    by_size = sorted(Counter(counts).items(), reverse=True)
    found = ", ".join(f"{count:,} of {plural(images, 'image')}" for images, count in by_size[:_NAMED])
    more = ", and smaller ones" if len(by_size) > _NAMED else ""
    lower = f", or set `minimum_images: {counts[1]}` in the data set file" if counts[1] > 1 else ""
    return (
        f"{dataset.source}: {len(sizes):,} classes are too small to be trained and tested on: {found}{more}. "
        f"Two classes need at least {least} good images each. Add images{lower}."
    )


def _listed(sizes: Sequence[ClassSize]) -> str:
    return some_of([f"{size.label!r} ({plural(size.images, 'image')})" for size in sizes], _NAMED)
