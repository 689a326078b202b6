"""The outputs of a data set, read without what may differ between two runs: digests, times, rates, ids, paths.

`tests.same` compares them, and lists the files.
"""

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from safetensors.numpy import load_file

Row = dict[str, Any]
Rows = dict[str, Row]

# Left out wherever they are a column, a key or a part of one.
TIMES = {"modified", "scored_at", "finished_at", "at", "seconds", "images_per_second", "energy", "started_at"}
DIGESTS = {"made_of", "code", "settings", "facts", "key", "run", "run_id", "digest", "who", "commit", "lock", "part"}
MACHINE = {"machine", "distributions", "device"}
LEFT_OUT = TIMES | DIGESTS | MACHINE
LEFT_OUT_TAGS = {
    "drift.embedding.p",
    "calibration",
    "reference",
    "files",
    "commit",
    "lock",
    "champion_since",
    "training",
    "scored",
}
RENAMED = {("reference.json", "labels"): "classes"}  # a key of a file: its name now
DRAWN = ("measures.embedding", "p")  # permutations of vectors that lie in the order of a hash of their paths
OTHER_DIGEST = re.compile(r"\b([0-9a-f]{8}|[0-9a-f]{12}|[0-9a-f]{16}|[0-9a-f]{32}|[0-9a-f]{40})\b")
TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00)?|\d{1,2} \w{3} \d{4}, \d\d:\d\d UTC")
# In prose: how long a training took and on which machine, installed distributions, the name of a Prefect run.
RUN = re.compile(
    r"[\d.,]+ s on \w+[^|\n]*|\benergy\W+[\d.]+ k?Wh \([^)]*\)|\d+, SHA-256|flow run [\w-]+/[\w-]+|\b[0-9a-f]{64}\b"
)


def read_outputs(out: Path, dataset: str) -> dict[str, Rows]:
    """Read everything that is compared, of one data set."""
    store, plain = out / "store", Plain(out)
    models = sorted((store / "mlartifacts" / dataset / "models").glob("*/artifacts/artifacts"))
    outputs = {
        "catalog": plain.table(sorted((store / "catalog" / dataset).glob("*.parquet")), "uri"),
        "history": plain.table(sorted((store / "history" / dataset).glob("*.parquet")), "uri"),
        "pixels": plain.table(sorted((store / "pixels" / dataset).glob("*/*.parquet")), "uri"),
        "shards": plain.table(sorted((store / "shards" / dataset).glob("*/*.parquet")), "image_id")
        | plain.documents(store / "shards" / dataset, "**/*.json"),
        "checks": plain.documents(store / "checks" / dataset, "**/*.json"),
        "run": plain.documents(store / "runs" / dataset, "**/*.json"),
        "predictions": plain.table(sorted((store / "runs" / dataset).glob("*/evaluation/predictions.parquet")), "uri")
        | plain.table(sorted((store / "runs" / dataset).glob("*/evaluation/slices.parquet")), "column", "value"),
        "weights": plain.tensors(store / "runs" / dataset),
        "pictures": plain.pictures(store / "runs" / dataset),
        "model": {k: row for folder in models for k, row in plain.documents(folder, "**/*.json").items()},
        "model weights": {k: row for folder in models for k, row in plain.tensors(folder).items()},
        "scores": plain.table(sorted(out.glob(f"{dataset}-scores/*.parquet")), "uri"),
        "batch": plain.documents(out, f"{dataset}-scores/_*.json"),
        "registry": plain.registry(store / "mlflow.db", dataset),
    }
    if (page := out / f"{dataset}.html").exists():
        outputs["report"] = {page.name: {"description": plain.page(page)}}
    return outputs


class Plain:
    """Reads files of an output folder without what may differ: paths, digests, times."""

    def __init__(self, out: Path) -> None:
        self.out = str(out)

    def text(self, value: str) -> str:
        """Put fixed words in the place of the folder's path, times and digests; image ids stay."""
        return OTHER_DIGEST.sub("DIGEST", TIME.sub("TIME", value.replace(self.out, "OUT")))

    def prose(self, text: str) -> str:
        """The same for a page or a card, without empty lines."""
        lines = (" ".join(line.split()) for line in RUN.sub("RUN", self.text(text)).splitlines())
        return "\n".join(line for line in lines if line)

    def value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        return value

    def table(self, files: list[Path], *key: str) -> Rows:
        """Read rows of Parquet files by the columns `key`. Rows with an equal key are numbered."""
        rows: Rows = {}
        for path in files:
            table = pq.read_table(path)
            names = [name for name in table.column_names if name not in LEFT_OUT]
            for values in zip(*(_column(table[name]) for name in names), strict=True):
                row = {name: self.value(value) for name, value in zip(names, values, strict=True)}
                rows[_unused(rows, " ".join(str(row[name]) for name in key))] = row
        return rows

    def documents(self, folder: Path, pattern: str) -> Rows:
        """Read JSON files by their paths below the folder."""
        rows: Rows = {}
        for path in sorted(folder.glob(pattern)):
            name = path.relative_to(folder).as_posix()
            if path.name != "_batch.json":  # run and key, which are ids
                content = json.loads(path.read_text(encoding="utf-8"))
                flat = dict(_flatten({RENAMED.get((path.name, key), key): value for key, value in content.items()}))
                rows[_unused(rows, self.text(name))] = {k: self.value(value) for k, value in flat.items()}
        return rows

    def tensors(self, folder: Path) -> Rows:
        rows: Rows = {}
        for path in sorted(folder.glob("**/*.safetensors")):
            for name, tensor in load_file(path).items():
                row = {"type": str(tensor.dtype), "shape": tensor.shape, "bytes": tensor.tobytes()}
                rows[_unused(rows, f"{path.name} {name}")] = row
        return rows

    def pictures(self, folder: Path) -> Rows:
        """Decode the gallery's pictures. Plots are left out: their pixels follow from the drawing library."""
        rows: Rows = {}
        for path in sorted(folder.glob("*/explanation/images/*")):
            with Image.open(path) as picture:
                rows[path.name] = {"size": picture.size, "mode": picture.mode, "bytes": picture.tobytes()}
        return rows

    def registry(self, path: Path, dataset: str) -> Rows:
        """Read MLflow's database: versions and runs of the data set and of its batches."""
        rows: Rows = {}
        if not path.exists():
            return rows
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            query = "SELECT version, description FROM model_versions WHERE name = ? ORDER BY version"
            for version, description in database.execute(query, [dataset]).fetchall():
                row = rows[f"version {version}"] = {"description": self.prose(description or "")}
                named = "FROM {} WHERE name = ? AND version = ?"
                row |= self._tags(database, "SELECT key, value " + named.format("model_version_tags"), dataset, version)
                aliases = database.execute(
                    "SELECT alias " + named.format("registered_model_aliases"), [dataset, version]
                )
                row["aliases"] = sorted(alias for (alias,) in aliases)
            query = (
                "SELECT run_uuid, experiments.name, status FROM runs JOIN experiments USING (experiment_id) "
                "WHERE experiments.name IN (?, ?) ORDER BY start_time"
            )
            for run, experiment, status in database.execute(query, [dataset, f"{dataset}-scores"]).fetchall():
                row = rows[_unused(rows, f"run of {experiment}")] = {"status": status}
                for table in ("params", "latest_metrics", "tags"):
                    row |= self._tags(database, f"SELECT key, value FROM {table} WHERE run_uuid = ?", run)
        return rows

    def _tags(self, database: sqlite3.Connection, query: str, *values: Any) -> Row:
        found = {}
        for key, value in database.execute(query, values):
            word = key.removeprefix("grayline.").removeprefix("mlflow.")
            if word not in LEFT_OUT | LEFT_OUT_TAGS and not word.startswith("system/"):
                text = isinstance(value, str) and value.startswith(("{", "["))
                parts = _flatten(json.loads(value), word) if text and word.startswith("gate.") else [(word, value)]
                found |= {name: self.value(part) for name, part in parts}
        return {"note" if name == "note.content" else name: value for name, value in found.items()}

    def page(self, path: Path) -> str:
        """Return a page's text without drawings, styles and scripts."""
        html = re.sub(r"<(style|script|svg)\b.*?</\1>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        return self.prose(unescape(re.sub(r"<[^>]+>", "\n", html)))


def _column(column: pa.ChunkedArray) -> list[Any]:
    """Return the values; a tensor's are bytes."""
    if not isinstance(column.type, pa.BaseExtensionType):
        return list(column.to_pylist())
    tensors = [tensor for chunk in column.chunks for tensor in chunk.to_numpy_ndarray()]
    return [tensor.tobytes() for tensor in tensors]


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a JSON value by their dotted paths; a list of plain values is a leaf."""
    if isinstance(value, dict) and name in ("shards", "parts"):  # rows by file, and files are named by digests
        yield name, sorted(value.values())
        return
    if isinstance(value, dict):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, item in items:
        if key not in LEFT_OUT and (name, key) != DRAWN:
            yield from _flatten(item, f"{name}.{key}" if name else str(key))


def _unused(rows: Rows, key: str) -> str:
    """Return the key, numbered if it is taken."""
    number = 1
    while (f"{key} #{number}" if number > 1 else key) in rows:
        number += 1
    return f"{key} #{number}" if number > 1 else key
