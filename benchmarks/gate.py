"""How often the gate promotes a challenger: `python -m benchmarks gate`, by itself.

A night is a champion and a challenger that predict the same held-out images. They differ on a twentieth, a tenth or a
fifth of them. The challenger is as good, 3 points worse or 1 point better. `resnet_core.evaluation.comparison` decides,
as in the gate, at the defaults of a data set file.
The last column is the common alternative: the challenger's accuracy is not below the champion's.

`images`: 2,000 images are independent. `groups`: they come in similar fours, as of one patient, and the gate knows it.

`evidence`: 50 to 5,000 images, independent and in fours. Does a challenger 3 points worse get in, and is an equal one
called better? Does a first champion get in that answers by chance, or one label for every image? The floor is left out:
it would keep out half of them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.rounds import Measure, Result, Track
from resnet_core.evaluation.bootstrap import LEAST_GROUPS, Groups
from resnet_core.evaluation.comparison import Comparison, Pair, compare
from resnet_core.evaluation.evidence import against_constant, told_by
from resnet_core.evaluation.metrics import Labels, Probabilities, accuracy
from tasks.dataset import Gate

IMAGES, NIGHTS = 2000, 1000
SIZES = (50, 120, 200, 500, 1000, 2000, 5000)
DIFFERENT = (0.05, 0.1, 0.2)  # of the images, that one of the two has right and the other wrong
CHALLENGERS = {"as good": 0.0, "3 points worse": -0.03, "1 point better": 0.01}
GROUP, ALIKE = 4, 0.6  # images of a group, and how often one has what its group has
RIGHT = 0.85  # of the images on which both agree
# First champions that have learned nothing: the share of the second class, and how often they answer it.
FIRST = {
    "by chance": (0.5, 0.5),
    "by chance, 5% of one class": (0.05, 0.5),
    "as often as the classes, 5% of one": (0.05, 0.05),
    "the largest class, 5% of the other": (0.05, 0.0),
}
PARTS = ("images", "groups", "evidence")
RULES = ("better", "not_worse", ">=")

Night = tuple[Labels, Probabilities, Probabilities]


def run(folder: Path, track: Track, parts: Sequence[str] = PARTS, nights: int = NIGHTS) -> Result:
    """How often each challenger gets in under each rule, in percent of the nights."""
    cases = [
        (part, share, name)
        for part in parts
        if part != "evidence"
        for share in (DIFFERENT if part == "images" else DIFFERENT[1:2])
        for name in CHALLENGERS
    ]
    sizes = [(images, group) for group in (1, GROUP) for images in SIZES] if "evidence" in parts else []
    found: dict[tuple[str, float, str], dict[str, float]] = {}
    weighed: dict[tuple[int, int], dict[str, float]] = {}
    for number in track(range(len(cases) + len(sizes))):
        if number < len(cases):
            part, share, name = cases[number]
            group = GROUP if part == "groups" else 1
            found[cases[number]] = rates(CHALLENGERS[name], share, nights, group)
        else:
            images, group = sizes[number - len(cases)]
            weighed[images, group] = evidence(images, group, nights)
    lines = [
        Measure(
            f"{rule}: {name}, {share:.0%} differ" + (", in groups" if part == "groups" else ""), (100 * value,), "%"
        )
        for rule in RULES
        for (part, share, name), by_rule in found.items()
        for value in (by_rule[rule],)
    ]
    lines += [
        Measure(f"{images:,} images{', in groups' if group > 1 else ''}: {what}", (100 * value,), "%")
        for (images, group), by_what in weighed.items()
        for what, value in by_what.items()
    ]
    gate = Gate()
    setting = (
        f"{nights:,} nights of {IMAGES:,} held-out images; better with 0.95, not worse than {gate.margin:.0%} with "
        f"{gate.level}; % of the nights on which the challenger gets in"
    )
    return Result("gate", setting, measures=tuple(lines))


def rates(difference: float, share: float, nights: int, group: int = 1, images: int = IMAGES) -> dict[str, float]:
    """Return, by rule, the share of the nights on which the challenger is promoted.

    Its accuracy is higher by `difference`, and it differs from the champion on `share` of the images.
    """
    passed = dict.fromkeys(RULES, 0)
    groups = np.arange(images) // group if group > 1 else None
    for night in simulated(difference, share, nights, group, images):
        better, not_worse = (judged(night, Gate(promote=rule), groups) for rule in ("better", "not_worse"))
        passed["better"] += better.better
        passed["not_worse"] += not_worse.not_worse(Gate().margin)
        passed[">="] += better.value >= 0
    return {rule: count / nights for rule, count in passed.items()}


def judged(night: Night, gate: Gate, groups: Groups | None) -> Comparison:
    return compare(accuracy, Pair(*night, groups), gate.level)


def evidence(images: int, group: int, nights: int) -> dict[str, float]:
    """Return the shares of the nights by what is promoted, and the difference that can be told (a tenth differ)."""
    groups = np.arange(images) // group if group > 1 else None
    found = {f"3 points worse, {share:.0%} differ": rates(-0.03, share, nights, group, images)["not_worse"]
             for share in DIFFERENT}  # fmt: skip
    found |= {f"as good, called better, {share:.0%} differ": rates(0.0, share, nights, group, images)["better"]
              for share in DIFFERENT}  # fmt: skip
    for name, (rare, said) in FIRST.items():
        found[name] = (
            sum(first_gets_in(*night, groups) for night in guessed(rare, said, nights, group, images)) / nights
        )
    told = [told_by(Pair(*night, groups)) for night in simulated(0.0, 0.1, 20, group, images)]
    return found | {"difference that can be told": float(np.mean(told))}


def first_gets_in(labels: Labels, answered: Probabilities, groups: Groups | None) -> bool:
    """Return whether the checks `held out` and `baseline` pass."""
    enough = len(labels) >= (Gate().held_out or 0) and (groups is None or groups.max() >= LEAST_GROUPS - 1)
    return enough and len(np.unique(labels)) == 2 and against_constant(labels, answered, groups).passed


def guessed(
    rare: float, said: float, nights: int, group: int, images: int, seed: int = 0
) -> Iterator[tuple[Labels, Probabilities]]:
    """Labels, and answers that have nothing to do with them; both are alike within a group."""
    random = np.random.default_rng(seed)
    for _ in range(nights):
        labels, answers = (alike(random, [1 - share, share], images, group) for share in (rare, said))
        yield labels, np.eye(2, dtype=np.float32)[answers]


def simulated(
    difference: float, share: float, nights: int, group: int, images: int = IMAGES, seed: int = 0
) -> Iterator[Night]:
    """Labels and both classifiers' probabilities for two classes."""
    random = np.random.default_rng(seed)
    gained, lost = (share + difference) / 2, (share - difference) / 2
    outcomes = [gained, lost, (1 - share) * RIGHT, (1 - share) * (1 - RIGHT)]
    for _ in range(nights):
        outcome = alike(random, outcomes, images, group)
        labels = random.integers(0, 2, images)
        new_right, old_right = np.isin(outcome, (0, 2)), np.isin(outcome, (1, 2))
        yield labels, answers(labels, new_right), answers(labels, old_right)


def alike(random: np.random.Generator, shares: Sequence[float], images: int, group: int) -> Labels:
    """Draw a number for each image; ALIKE of those of a group have the group's."""
    own = random.choice(len(shares), images, p=shares)
    if group == 1:
        return own
    shared = random.choice(len(shares), -(-images // group), p=shares)[np.arange(images) // group]
    return np.where(random.random(images) < ALIKE, shared, own)


def answers(labels: Labels, right: np.ndarray) -> Probabilities:
    """Probability 1 of the class that is answered."""
    found: Probabilities = np.eye(2, dtype=np.float32)[np.where(right, labels, 1 - labels)]
    return found
