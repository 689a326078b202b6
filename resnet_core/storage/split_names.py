"""Split names: which split the name of a folder or table means, such as `Train`, `val` or `seg_test`."""

import re
from typing import NamedTuple

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_EVALUATION = "evaluation"  # the test images, or the validation images beside a test folder
# The usual names. The `datasets` library reads file names by the same words.
WORDS = {
    TRAIN: ("train", "training", "trn", "trainval"),
    VALIDATION: ("validation", "val", "valid", "validate", "dev", "development"),
    TEST: ("test", "testing", "tst", "holdout", "heldout", "t10k"),
    _EVALUATION: ("eval", "evaluation"),
}
_SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}
# Words that say nothing about the content, also without a separator: `trainset`, `test_images`.
_GENERIC = ("set", "sets", "data", "dataset", "images", "image", "imgs", "img", "pictures", "split", "splits", "folder")
_TOKEN = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_a-zA-Z]+|[^\W_a-zA-Z]+")
_HOLD_OUT = re.compile(r"(hold|held)[-_ ]?out", re.IGNORECASE)


class _SplitName(NamedTuple):
    """`split` of a name; None if it names none, or several. `rest`: its other words."""

    split: str | None
    rest: tuple[str, ...]


def read_name(name: str) -> _SplitName:
    """Read the name of a folder, or of a file without its suffix."""
    words = [word for token in _tokens(name) if (word := _without_generic(token))]
    splits = {_SPLIT_OF[word] for word in words if word in _SPLIT_OF}
    rest = tuple(word for word in words if word not in _SPLIT_OF)
    if splits == {TRAIN, VALIDATION}:  # `train_val`
        splits = {TRAIN}
    return _SplitName(splits.pop() if len(splits) == 1 else None, rest)


def is_generic(name: str) -> bool:
    """Return whether a name says nothing about the content, such as `images`."""
    return not any(map(_without_generic, _tokens(name)))


def settle(names: dict[str, _SplitName]) -> dict[str, str]:
    """Return the split of each name that has one, once all names are known."""
    splits = {name: found.split for name, found in names.items() if found.split}
    both = TEST in splits.values()
    return {name: (VALIDATION if both else TEST) if split == _EVALUATION else split for name, split in splits.items()}


def _tokens(name: str) -> list[str]:
    name = _HOLD_OUT.sub("holdout", name)
    if "t10k" in name.lower():
        name = re.sub("t10k", "test", name, flags=re.IGNORECASE)
    return [token.lower() for token in _TOKEN.findall(name) if not token.isdecimal()]


def _without_generic(word: str) -> str:
    """Return the word without generic parts; empty if nothing is left."""
    if word in _GENERIC:
        return ""
    for part in _GENERIC:
        if word.endswith(part) and word[: -len(part)] in _SPLIT_OF:
            return word[: -len(part)]
    return word
