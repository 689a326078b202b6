"""Arrivals: files that are still being copied into the source wait for the next night."""

import time

import pyarrow as pa
import pyarrow.compute as pc

from resnet_core.reasons import Reason, ReasonCode
from resnet_core.storage.locations import facts, is_url

_LOOK_AGAIN = 1.0  # seconds after which a copy has moved on
_FRESH = 60.0  # seconds since the last change, before or after now: clocks of two machines differ

_REASON = Reason.of(ReasonCode.STILL_WRITTEN, "its size or its time changes; the next night reads it")


def set_aside(files: pa.Table, images: pa.Table) -> pa.Table:
    """Return the read images; files that have changed since they were listed have the code `still_written`.

    files: rows of a listing, with the columns uri, size, modified and container; images: the result of each. A file
    that was changed just now and cannot be decoded gets a second look: its copy may have paused.
    """
    listed = list(zip(*(files[name].to_pylist() for name in ("uri", "size", "modified")), strict=True))
    local = [row for row, (uri, _, _) in enumerate(listed) if not files["container"][row].is_valid and not is_url(uri)]
    moving = {row for row in local if _has_moved(*listed[row])}
    bad = pc.is_valid(images["reason_code"]).to_pylist()
    if fresh := [row for row in local if bad[row] and row not in moving and _is_fresh(listed[row][2])]:
        time.sleep(_LOOK_AGAIN)
        moving |= {row for row in fresh if _has_moved(*listed[row])}
    if not moving:
        return images
    mask = pa.array([row in moving for row in range(len(listed))])
    for index, field in enumerate(images.schema):
        if field.name != "pixels":
            text = {"reason_code": str(_REASON.code), "reason": _REASON.text}.get(field.name)
            column = pc.if_else(mask, pa.scalar(text, field.type), images[field.name])
            images = images.set_column(index, field, column)
    return images


def _has_moved(uri: str, size: int, modified: str) -> bool:
    try:
        now = facts(uri)
    except OSError:
        return False  # its row says so: unreachable
    return (now["size"], now["modified"]) != (size, modified)


def _is_fresh(modified: str) -> bool:
    """modified: nanoseconds, of a file on a disk."""
    return modified.isdecimal() and abs(time.time() - int(modified) / 1e9) < _FRESH
