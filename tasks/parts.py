"""Parts: how many files are cut into pieces of work that each leave one file behind."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
from upath import UPath

from resnet_core.digest import digest_of

MOST_IN_A_PART = 1024
LEAST_IN_A_PART = 64


@dataclass(frozen=True)
class Part:
    """Some source files that one task works on. `path` is what the work leaves; its name is the
    digest of what goes in. `files` has the columns uri, size, modified."""

    path: UPath
    files: pd.DataFrame


def make_parts(files: pd.DataFrame, folder: UPath, *context: Any) -> tuple[Part, ...]:
    """Cut files into parts, eight or more where there are enough of them to keep some cores busy.
    The cut depends on the files alone: the same files make the same parts on any machine.

    context: what else decides the outcome, and so goes into the names.
    """
    if not len(files):
        return ()
    size = min(MOST_IN_A_PART, max(LEAST_IN_A_PART, -(-len(files) // 8)))
    parts = []
    for start in range(0, len(files), size):
        rows = files.iloc[start : start + size][["uri", "size", "modified"]]
        parts.append(Part(folder / f"{digest_of(rows.to_numpy().tolist(), *context)}.parquet", rows))
    return tuple(parts)
