"""Reasons: why a file is not an image to learn from, or to score.

A reason has a code and a text. Programs decide by the code, the column `reason_code` of catalog and scores.
The text, the column `reason`, is for people. docs/reasons.md explains the codes.
"""

from enum import StrEnum
from typing import Any, NamedTuple


class ReasonCode(StrEnum):
    """The closed list of codes: first those that reading a file gives, then those of the catalog alone."""

    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"  # by its first bytes: the only one that is not held against `quarantine_limit`
    UNSUPPORTED = "unsupported"
    TRUNCATED = "truncated"
    DAMAGED = "damaged"
    TOO_LARGE = "too_large"
    OVER_TIME = "over_time"
    DECODER_CRASHED = "decoder_crashed"
    LEVELS_UNKNOWN = "levels_unknown"
    BEYOND_LEVELS = "beyond_levels"
    UNREACHABLE = "unreachable"
    STILL_WRITTEN = "still_written"  # of a night alone: it waits

    TOO_SMALL = "too_small"
    BLANK = "blank"
    FILE_MISSING = "file_missing"
    LABEL_MISSING = "label_missing"
    LABEL_CONFLICT = "label_conflict"
    LABEL_OUTDATED = "label_outdated"
    DUPLICATE = "duplicate"
    NEAR_DUPLICATE = "near_duplicate"  # of older releases
    CLASS_TOO_SMALL = "class_too_small"

    @property
    def words(self) -> str:
        """The code as the beginning of a text."""
        return self.replace("_", " ")


# Faults of a moment are not verdicts: a stall, a network, memory that others took, a copy under way. The next run reads
# these files again, also if size and time are the same.
TRIED_AGAIN = frozenset(
    {ReasonCode.UNREACHABLE, ReasonCode.STILL_WRITTEN, ReasonCode.OVER_TIME, ReasonCode.DECODER_CRASHED}
)
# A file that costs every run the time of a stall is tried so often in all. The column `tries` counts the runs.
MOST_TRIES = 3
# SQL over rows with `reason_code` and `tries`: whether the next run reads the file again. Older releases did not count.
LOOK_AGAIN = (
    f"coalesce(reason_code in ('{ReasonCode.UNREACHABLE}', '{ReasonCode.STILL_WRITTEN}') "
    f"or reason_code in ('{ReasonCode.OVER_TIME}', '{ReasonCode.DECODER_CRASHED}') "
    f"and coalesce(tries, 0) < {MOST_TRIES}, false)"
)


class Reason(NamedTuple):
    """The code for programs, the text for people."""

    code: ReasonCode
    text: str

    @classmethod
    def of(cls, code: ReasonCode, detail: str) -> "Reason":
        """Make the text of the code and a detail, such as the decoder's own words."""
        return cls(code, f"{code.words}: {detail}")


# How the texts of older releases begin, where the code is not the beginning.
_OLDER_TEXTS = {
    "unreadable": ReasonCode.DAMAGED,
    "crashed the decoder": ReasonCode.DECODER_CRASHED,
    "changed since it was corrected": ReasonCode.LABEL_OUTDATED,
    "same bytes as ": ReasonCode.DUPLICATE,
    "near-duplicate of ": ReasonCode.NEAR_DUPLICATE,
}
_NEEDS_BYTES = [ReasonCode.DAMAGED, ReasonCode.OVER_TIME, ReasonCode.DECODER_CRASHED]


def with_reason_codes(rows: Any) -> Any:
    """Return a pyarrow table or batch of a catalog or of scores with the column `reason_code`.

    For files of older releases, which lack the column: the code comes from the text, and from `image_id`, which is
    null where no bytes could be read. An unknown text counts as damage. Rows with the column are returned as they are.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    names = rows.schema.names
    if "reason_code" in names:
        return rows
    texts = rows["reason"]
    codes = pc.if_else(pc.is_valid(texts), ReasonCode.DAMAGED.value, pa.scalar(None, pa.string()))
    for beginning, code in {**{code.words: code for code in ReasonCode}, **_OLDER_TEXTS}.items():
        codes = pc.if_else(pc.starts_with(texts, beginning), code.value, codes)
    had_bytes = pc.or_(pc.is_valid(rows["image_id"]), pc.invert(pc.is_in(codes, pa.array(_NEEDS_BYTES, pa.string()))))
    codes = pc.if_else(had_bytes, codes, ReasonCode.UNREACHABLE.value)
    return rows.add_column(names.index("reason"), pa.field("reason_code", pa.string()), codes)
