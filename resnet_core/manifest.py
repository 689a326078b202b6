"""A table of what is known about files: CSV or Parquet with path, label and optional columns."""

import pandas as pd
from upath import UPath

from resnet_core.errors import UserError, nearest

REQUIRED = ("path", "label")
OPTIONAL = ("split", "group", "weight")
SPLITS = ("train", "validation", "test")


def is_manifest(path: UPath) -> bool:
    return path.suffix.lower() in (".csv", ".parquet")


def read_manifest(path: UPath) -> pd.DataFrame:
    """One row a path: path, label, split, group (str or None), weight (float, 1 unless given).

    Raises UserError, naming the file and the column, for anything that cannot be meant.
    """
    table = _read(path)
    for column in REQUIRED:
        if column not in table.columns:
            hint = nearest(column, [str(name) for name in table.columns])
            raise UserError(f"{path}: has no column {column!r}.{hint} Its columns: {', '.join(table.columns)}.")
    for column in OPTIONAL:
        if column not in table.columns:
            table[column] = None
    table = table[[*REQUIRED, *OPTIONAL]]
    for column in ("path", "label", "split", "group"):
        table[column] = pd.Series([_text(value) for value in table[column]], table.index, dtype=object)
    _check(path, table)
    table["path"] = [name.removeprefix("./") for name in table["path"]]
    table["weight"] = _weights(path, table["weight"])
    return table.reset_index(drop=True)


def _read(path: UPath) -> pd.DataFrame:
    try:
        with path.open("rb") as file:
            if path.suffix.lower() == ".parquet":
                return pd.read_parquet(file)
            # Everything as text: a class named 007 must not become 7, nor a class named NA vanish.
            return pd.read_csv(file, dtype=str, keep_default_na=False, skipinitialspace=True)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file. Correct `labels:` or `source:`.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a table ({error}).") from None


def _text(value: object) -> str | None:
    if value is None or value == "" or (isinstance(value, float) and value != value):
        return None
    return str(value)


def _check(path: UPath, table: pd.DataFrame) -> None:
    if table["path"].isna().any():
        row = int(table.index[table["path"].isna()][0]) + 2
        raise UserError(f"{path}: line {row}: `path` is empty.")
    twice = table[table["path"].duplicated()]
    if len(twice):
        raise UserError(f"{path}: {twice['path'].iloc[0]!r} stands in it {1 + len(twice)} times; keep one row.")
    wrong = table[~(table["split"].isin(SPLITS) | table["split"].isna())]
    if len(wrong):
        value = wrong["split"].iloc[0]
        raise UserError(f"{path}: split {value!r} is none of {', '.join(SPLITS)}.{nearest(value, list(SPLITS))}")


def _weights(path: UPath, column: "pd.Series[str]") -> "pd.Series[float]":
    weights = pd.to_numeric(column, errors="coerce").astype(float)
    given = column.notna() & (column != "")
    wrong = given & ~(weights >= 0)
    if wrong.any():
        raise UserError(f"{path}: weight {column[wrong].iloc[0]!r} is no number of 0 or more.")
    return weights.where(given, 1.0)
