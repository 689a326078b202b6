"""What else a table of labels says of an image: any other columns, as one JSON object of strings.

Nothing is trained on them. They say which images belong together, as in the accuracy by camera.
"""

import json
from collections.abc import Iterable, Sequence

import pyarrow as pa


def encoded(rows: Iterable[Sequence[str | None]], names: Sequence[str]) -> pa.Array:
    """For each row the JSON object of what is not empty, null where nothing is: string [N]."""
    known: dict[tuple[str | None, ...], str | None] = {}  # many images say the same
    found = []
    for row in rows:
        key = tuple(row)
        if key not in known:
            if len(known) > 10_000:
                known.clear()
            filled = {name: value for name, value in zip(names, key, strict=True) if value}
            known[key] = json.dumps(filled, ensure_ascii=False) if filled else None
        found.append(known[key])
    return pa.array(found, pa.string())


def decoded(texts: Sequence[str | None], name: str) -> list[str | None]:
    """One attribute of N images; None where it is not there."""
    return [json.loads(text).get(name) if text else None for text in texts]


def is_attribute(field: pa.Field) -> bool:
    """Whether a Parquet column can be said in a word: vectors and bytes cannot, and pandas' index says nothing."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    spoken = (pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean, pa.types.is_integer,
              pa.types.is_floating, pa.types.is_decimal, pa.types.is_temporal)  # fmt: skip
    return not field.name.startswith("__index_level_") and any(test(kind) for test in spoken)
