"""A store of handwritten digits that commit f0480c9 has made, before the code lay in wings.

`python -m tests.old_version.make` made `store.tar.xz` in a git worktree of that commit. `unpack` lays it out anew:
the digits as files, and the store with the paths of its new place. Nothing else in it is changed.
The folder of a registered version is sealed by digests, so not even paths are changed there.

path in the archive          made by
digits.yaml                  make.py
digits/                      left out: `unpack` writes the same files again
store/                       `grayline retrain` twice, of one training; `grayline promote digits 2`; without drawings
digits-scores/               `grayline classify-batch` by version 2
"""

import os
import sqlite3
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

COMMIT = "f0480c9"
ARCHIVE = Path(__file__).with_name("store.tar.xz")
MADE_IN = "/tmp/grayline-f0480c9"  # the folder that all paths in the archive are below
IMAGES = 300
MODIFIED = 1_790_000_000  # seconds: the catalog knows a file by its size and time
SETTINGS = """\
name: digits
source: SOURCE
image: {size: 8}
model: {arch: resnet10, width: 16}
train: {epochs: 1, batch_size: 64}
evaluate: {coverage: 0.9}
gate: {metric: accuracy, minimum: 0.0}
"""


def write_digits(to: Path) -> None:
    """Write the first digits of scikit-learn as PNG files, in a folder for each class.

    Three more files are a damaged copy, an empty file and a copy.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (levels, label) in enumerate(zip(digits.images[:IMAGES], digits.target, strict=False)):
        path = to / str(label) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((levels * (255 / 16)).round().astype("uint8")).save(path)
    image = (to / "0" / "0000.png").read_bytes()
    (to / "0" / "damaged.png").write_bytes(image[:-20] + bytes([image[-20] ^ 1]) + image[-19:])
    (to / "1" / "empty.png").write_bytes(b"")
    (to / "0" / "copy.png").write_bytes(image)
    for path in to.glob("*/*.png"):
        os.utime(path, (MODIFIED, MODIFIED))


def unpack(to: Path) -> Path:
    """Lay out the store, its source and its data set file below `to`. Returns the data set file."""
    with tarfile.open(ARCHIVE) as archive:
        # Python before 3.11.4, as in Debian 12, knows no filter and unpacks without one.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(to)
    relocate(to, MADE_IN, str(to))
    write_digits(to / "digits")
    return to / "digits.yaml"


def relocate(folder: Path, before: str, after: str) -> None:
    """Replace a path in all files below the folder that hold it, but for those of registered versions."""
    for path in folder.rglob("*"):
        if path.is_dir() or "models" in path.parts:
            continue
        if path.suffix in (".json", ".yaml", ".yml"):
            text = path.read_text(encoding="utf-8")
            if before in text:
                path.write_text(text.replace(before, after), encoding="utf-8")
        elif path.suffix == ".parquet":
            _relocate_table(path, before, after)
        elif path.name == "mlflow.db":
            _relocate_database(path, before, after)


def _relocate_table(path: Path, before: str, after: str) -> None:
    table = pq.read_table(path)
    if "uri" in table.column_names:
        place = table.column_names.index("uri")
        uris = [uri.replace(before, after) for uri in table["uri"].to_pylist()]
        pq.write_table(table.set_column(place, table.schema.field("uri"), pa.array(uris, pa.string())), path)


def _relocate_database(path: Path, before: str, after: str) -> None:
    with sqlite3.connect(path) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for column in [row[1] for row in database.execute(f"PRAGMA table_info('{table}')")]:
                statement = f"""UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) WHERE "{column}" LIKE ?"""
                database.execute(statement, [before, after, f"%{before}%"])
