"""How often the gate promotes a challenger: `python -m benchmarks gate`, by itself.

A night is a champion and a challenger that predict the same 2,000 held-out images. They differ on a twentieth, a tenth
or a fifth of them. The challenger is as good, 3 points worse or 1 point better.
`resnet_core.evaluation.comparison` decides, as in the gate, at the defaults of a data set file.
The last column is the common alternative: the challenger's accuracy is not below the champion's.

`images`: images are independent. `groups`: images come in similar fours, as of one patient, and the gate knows it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.rounds import Measure, Result, Track
from resnet_core.evaluation.bootstrap import Groups
from resnet_core.evaluation.comparison import Comparison, Pair, compare
from resnet_core.evaluation.metrics import Labels, Probabilities, accuracy
from tasks.dataset import Gate

IMAGES, NIGHTS = 2000, 1000
DIFFERENT = (0.05, 0.1, 0.2)  # of the images, that one of the two has right and the other wrong
CHALLENGERS = {"as good": 0.0, "3 points worse": -0.03, "1 point better": 0.01}
GROUP, ALIKE = 4, 0.6  # images of a group, and how often one has what its group has
RIGHT = 0.85  # of the images on which both agree
PARTS = ("images", "groups")
RULES = ("better", "not_worse", ">=")

Night = tuple[Labels, Probabilities, Probabilities]


def run(folder: Path, track: Track, parts: Sequence[str] = PARTS, nights: int = NIGHTS) -> Result:
    """How often each challenger gets in under each rule, in percent of the nights."""
    cases = [
        (part, share, name)
        for part in parts
        for share in (DIFFERENT if part == "images" else DIFFERENT[1:2])
        for name in CHALLENGERS
    ]
    found = {}
    for number in track(range(len(cases))):
        part, share, name = cases[number]
        group = GROUP if part == "groups" else 1
        found[cases[number]] = rates(CHALLENGERS[name], share, nights, group)
    lines = [
        Measure(
            f"{rule}: {name}, {share:.0%} differ" + (", in groups" if part == "groups" else ""), (100 * value,), "%"
        )
        for rule in RULES
        for (part, share, name), by_rule in found.items()
        for value in (by_rule[rule],)
    ]
    gate = Gate()
    setting = (
        f"{nights:,} nights of {IMAGES:,} held-out images; better with 0.95, not worse than {gate.margin:.0%} with "
        f"{gate.level}; % of the nights on which the challenger gets in"
    )
    return Result("gate", setting, measures=tuple(lines))


def rates(difference: float, share: float, nights: int, group: int = 1, seed: int = 0) -> dict[str, float]:
    """Return, by rule, the share of the nights on which the challenger is promoted.

    Its accuracy is higher by `difference`, and it differs from the champion on `share` of the images.
    """
    passed = dict.fromkeys(RULES, 0)
    groups = np.repeat(np.arange(IMAGES // group), group) if group > 1 else None
    for night in simulated(difference, share, nights, group, seed):
        better, not_worse = (judged(night, Gate(promote=rule), groups) for rule in ("better", "not_worse"))
        passed["better"] += better.better
        passed["not_worse"] += not_worse.not_worse(Gate().margin)
        passed[">="] += better.value >= 0
    return {rule: count / nights for rule, count in passed.items()}


def judged(night: Night, gate: Gate, groups: Groups | None) -> Comparison:
    return compare(accuracy, Pair(*night, groups), gate.level)


def simulated(difference: float, share: float, nights: int, group: int, seed: int) -> Iterator[Night]:
    """Labels and both classifiers' probabilities for two classes."""
    random = np.random.default_rng(seed)
    gained, lost = (share + difference) / 2, (share - difference) / 2
    outcomes = [gained, lost, (1 - share) * RIGHT, (1 - share) * (1 - RIGHT)]
    for _ in range(nights):
        own = random.choice(4, IMAGES, p=outcomes)
        shared = np.repeat(random.choice(4, IMAGES // group, p=outcomes), group)
        outcome = own if group == 1 else np.where(random.random(IMAGES) < ALIKE, shared, own)
        labels = random.integers(0, 2, IMAGES)
        new_right, old_right = np.isin(outcome, (0, 2)), np.isin(outcome, (1, 2))
        yield labels, answers(labels, new_right), answers(labels, old_right)


def answers(labels: Labels, right: np.ndarray) -> Probabilities:
    """Probability 1 of the class that is answered."""
    found: Probabilities = np.eye(2, dtype=np.float32)[np.where(right, labels, 1 - labels)]
    return found
