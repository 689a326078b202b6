"""Placement in words: lines for the terminal, a table for the page of the data checks. And the split's check."""

from collections.abc import Iterator

from resnet_core.catalog.placement import ClassPlacement, Placement
from resnet_core.drift.checks import Finding, SplitCheck, percent
from resnet_core.errors import plural, some_of
from tasks.artifacts import markdown_table

_NAMED = 8  # classes
_SCENE = 0.05  # of a class
_CORRECT = "correct `split` in the labels, or the folders"


def lines(placed: Placement) -> Iterator[str]:
    """Yield what is where, what was tied and why, and how many held-out images look like a training image."""
    yield _shares(placed)
    yield f"train and test by class: {_by_class(placed)}"
    if placed.groups:
        train, _, test, count = placed.groups
        yield f"groups: {train:,} train, {test:,} test, of {count:,}; an image without one is its own"
    yield from _ties(placed)
    yield _leaks(placed)
    if placed.copies:
        yield (
            f"{placed.copies:,} held-out images are copies of training images by `split` in the labels; all stay where "
            "they are, and the catalog's `look_alike` names them"
        )
    if placed.twice:
        yield (
            f"{placed.twice:,} images lie with equal bytes in several splits of the labels: each counts once, where an "
            "earlier night had it, or else held out"
        )


def summary(placed: Placement) -> str:
    """Return the line of a table of the night's stages."""
    return f"{_shares(placed)}; {_leaks(placed)}"


def _shares(placed: Placement) -> str:
    held = f"{placed.test:,} test" + (f", {placed.validation:,} validation" if placed.validation else "")
    share = percent(_share(placed.test, placed.placed))
    return f"{placed.train:,} train, {held} ({share} test, {percent(placed.asked)} asked for)"


def _leaks(placed: Placement) -> str:
    if placed.leaks is None:
        return "look-alikes across the split: not measured, `split.near_duplicates` is false"
    return f"{placed.leaks:,} of {placed.test:,} test images look like a training image of their class"


def _ties(placed: Placement) -> Iterator[str]:
    tied, to = placed.tied
    if tied:
        go, others = "goes" if tied == 1 else "go", f"{to:,} other" + "s" * (to != 1)
        yield f"{plural(tied, 'image')} {go} with {others}: the same picture encoded, scaled, toned or taken again"
    scene = [each for each in placed.classes if placed.scene.get(each.label, 0) > _SCENE * max(1, each.placed)]
    if scene:
        alike = sum(placed.scene.values())
        names = some_of([repr(each.label) for each in scene], _NAMED)
        yield (
            f"a fixed scene: {alike:,} images look alike, of {names}, and are not tied. If some belong together, "
            "name them by `group` in the labels (part number, day, camera)"
        )


def _by_class(placed: Placement) -> str:
    """Return classes with their images, the largest first, and the share of the largest."""
    order = sorted(placed.classes, key=lambda each: (-each.placed, each.label))
    taken = [each for each in order if each.placed]
    texts = [f"{each.label!r} {each.train:,} + {each.test:,}" for each in taken]
    most = f"; {taken[0].label!r} is {percent(_share(taken[0].placed, placed.placed))}" if taken else ""
    return f"{some_of(texts, _NAMED)}{most}"


def _share(count: int, of: int) -> float:
    return count / of if of else 0.0


def table(placed: Placement) -> str:
    """Return the classes by split as Markdown."""
    header = ("class", "train", "validation", "test", "waiting", "share")
    order = sorted(placed.classes, key=lambda each: (-each.placed, each.label))
    rows = [
        (each.label, *(f"{n:,}" for n in (each.train, each.validation, each.test, each.waiting)),
         percent(_share(each.placed, placed.placed)))
        for each in order[:50]
    ]  # fmt: skip
    more = f"\n\nand {len(order) - 50:,} more classes" if len(order) > 50 else ""
    return markdown_table(header, rows, numbers=header[1:]) + more


def check(placed: Placement, name: str, config: SplitCheck) -> Finding | None:
    """Return the check of the split: what is wrong, its cause, and a remedy. It never ends a night.

    name: of the data set.
    """
    if config.action == "ignore":
        return None
    asked, share = placed.asked, _share(placed.test, placed.placed)
    low, high = asked / config.factor, min(1.0, asked * config.factor)
    wanted = (
        f"{percent(low)} to {percent(high)} in test, every class in train and test"
        + (f", {config.groups} groups in each" if placed.groups else "")
    )  # fmt: skip
    problems = []
    by_labels = placed.fixed == placed.placed
    if not low <= share <= high and not by_labels:
        problems.append((f"{percent(share)} in test", *_why_share(placed, name)))
    for each in (each for each in placed.classes if each.placed and not (each.train and each.test)):
        problems.append(
            (f"{each.label!r} has no {'test' if each.train else 'training'} image", *_why_class(each, name))
        )
    if placed.groups:
        train, _, test, count = placed.groups
        if min(train, test) < config.groups:
            problems.append((f"{train:,} groups in train, {test:,} in test", *_why_groups(placed, count, config, name)))
    found = some_of([problem for problem, _, _ in problems], _NAMED, "; ")
    reasons = dict.fromkeys(f"{cause}: {remedy}" for _, cause, remedy in problems)
    ok = f"{percent(share)} in test, every class in train and test"
    return Finding("split", found or ok, wanted, config.action if problems else "ok", "; ".join(reasons))


def _anew(name: str) -> str:
    return f"`grayline split --again {name} --reason TEXT`"


def _why_share(placed: Placement, name: str) -> tuple[str, str]:
    """Return the cause of an unexpected test share, and a remedy."""
    group, grouped, images = placed.largest or ("", False, 0)
    if placed.fixed:
        return (
            f"the labels place {placed.fixed:,} of {placed.placed:,} images",
            _CORRECT,
        )
    if grouped and images > placed.placed * placed.asked / 2:
        return (
            f"group {group!r} holds {images:,} of {placed.placed:,} images and stays on one side",
            "name finer groups",
        )
    if placed.free < placed.placed:
        return "earlier nights have placed most images, by the shares of then", f"begin anew with {_anew(name)}"
    what = f"{placed.groups[3]:,} groups" if placed.groups else f"{placed.placed:,} images"
    return f"chance, with only {what}", f"add some, or draw again with {_anew(name)}"


def _why_class(each: ClassPlacement, name: str) -> tuple[str, str]:
    """Return the cause of a class that is on one side, and a remedy."""
    if each.fixed:
        return f"the labels place all images of {each.label!r}", _CORRECT
    if each.units == 1:
        return f"all images of {each.label!r} are in one group or tie", "add images of another group"
    if not each.free:
        return f"earlier nights have placed all images of {each.label!r}", f"add images, or {_anew(name)}"
    return f"the groups of {each.label!r} hold other classes that need them", "add images of other groups"


def _why_groups(placed: Placement, count: int, config: SplitCheck, name: str) -> tuple[str, str]:
    """Return the cause of too few groups on a side, and a remedy."""
    if count < 2 * config.groups:
        return f"there are only {count:,} groups", "name finer groups, or add images of others"
    if placed.fixed:
        return (
            f"the labels place {placed.fixed:,} of {placed.placed:,} images",
            _CORRECT,
        )
    return "earlier nights, or classes that need their group, hold them", f"begin anew with {_anew(name)}"
