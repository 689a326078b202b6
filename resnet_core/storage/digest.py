"""Digests: the names of everything that is derived from something else.

A file named by the digest of its inputs is its own cache: if it exists, the work is done; if an input changes,
so does the name.
"""

import ast
import dataclasses
import hashlib
import io
import json
import mmap
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
from pyarrow import csv

from resnet_core.errors import JobError, some_of

DIGESTS = "digests.json"
SIGNATURE_FILE = "model.sig"  # signs all files and DIGESTS, so it cannot be listed itself
MLFLOW_NOTE = "registered_model_meta"  # name and version, which MLflow writes beside what it loads
_UNLISTED = (DIGESTS, SIGNATURE_FILE, MLFLOW_NOTE)


GONE = (FileNotFoundError, NotADirectoryError)  # other errors of a disk say nothing about a version


class DamagedVersionError(JobError):
    """A model version differs from what was registered: it is not used."""


def file_digest(path: Path) -> str:
    """Return the SHA-256 of the file's bytes, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests_of(folder: Path) -> dict[str, str]:
    """Return the digest of each file below the folder, by its path with slashes; _UNLISTED files are left out."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    return {name: file_digest(files[name]) for name in sorted(files) if name not in _UNLISTED}


def remove_bytecode(folder: Path) -> None:
    """Remove compiled code, which Python runs instead of the source and which no digest covers."""
    for path in folder.rglob("__pycache__"):
        shutil.rmtree(path, ignore_errors=True)  # `check_digests` finds files that cannot be removed


def write_digests(folder: Path) -> str:
    """List the folder's files in DIGESTS, without compiled code. Return the digest of the list."""
    remove_bytecode(folder)  # of a file that was run where it lies, as MLflow does with a model's code
    (folder / DIGESTS).write_text(json.dumps(digests_of(folder), indent=2) + "\n", encoding="utf-8")
    return file_digest(folder / DIGESTS)


def check_digests(folder: Path, listed: str | None = None, below: str = "") -> None:
    """Raise DamagedVersionError, with the names of the files, unless the folder's files are the listed ones.

    listed: the digest of the list itself, kept elsewhere. Without it only accidents are found: a person who can
        change a file can change the list.
    below: check only names that begin with this.
    """
    path = folder / DIGESTS
    if not path.is_file():
        raise DamagedVersionError(f"{DIGESTS} is missing")
    if listed is not None and file_digest(path) != listed:
        raise DamagedVersionError(f"{DIGESTS} is changed")
    try:
        expected = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise DamagedVersionError(f"{DIGESTS} is changed") from None
    actual = digests_of(folder)
    wrong = [
        f"{name} is {'missing' if name not in actual else 'extra' if name not in expected else 'changed'}"
        for name in sorted(expected.keys() | actual.keys())
        if name.startswith(below) and expected.get(name) != actual.get(name)
    ]
    if wrong:
        raise DamagedVersionError(some_of(wrong, 3))


# Around the digest in a sealed file. No text has these bytes, so no name in the file can be taken for them.
_SEAL = b"\xffsha256\xfe", b"\xfdsealed\xfc"


def seal(parquet: Path) -> None:
    """Write the digest of a Parquet file into it, before its footer, where no reader looks.

    Checksums of pages cover neither the footer nor the bytes between pages. Files are sealed before they have a name.
    """
    with parquet.open("rb+") as file:
        file.seek(-8, io.SEEK_END)
        file.seek(-8 - int.from_bytes(file.read(4), "little"), io.SEEK_END)
        at, footer = file.tell(), file.read()
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(at)
        file.write(_SEAL[0] + digest + _SEAL[1] + footer)


def check_seal(parquet: Path) -> None:
    """Raise ValueError unless the bytes of a sealed file are those that were written.

    A file without a seal is of an earlier release, or of another program, and passes.
    """
    with parquet.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        begin, end = (data.rfind(mark) for mark in _SEAL)
        if begin < 0 and end < 0:
            return
        begin = begin if begin >= 0 else end - 32 - len(_SEAL[0])
        digest = hashlib.sha256(memoryview(data)[:begin])
        after = begin + len(_SEAL[0]) + 32 + len(_SEAL[1])
        digest.update(memoryview(data)[after:])
        if data[begin:after] != _SEAL[0] + digest.digest() + _SEAL[1]:
            raise ValueError("its bytes are not those that were written")


def digest_of(*parts: Any) -> str:
    """Return 16 hexadecimal digits over JSON-like values, dataclasses and tuples, in the order given."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def table_digest(pieces: Iterable[pa.Table]) -> str:
    """Return the same over a table that comes in pieces: its columns, its rows and their order."""
    # Digest the text, for equal tables may differ in unused bytes.
    text = hashlib.sha256()
    for piece in pieces:
        sink = io.BytesIO()
        csv.write_csv(piece, sink)
        text.update(sink.getbuffer())
    return text.hexdigest()[:16]


def source_digest(*wings: ModuleType) -> str:
    """Return the digest of the code of wings (packages) and modules: work done by other code is not reused.

    Comments, docstrings and layout do not count, so that a reworded comment does not retrain a model.
    """
    return digest_of([_code(file) for wing in wings for file in _files_of(wing)])


def _files_of(wing: ModuleType) -> list[Path]:
    assert wing.__file__ is not None
    file = Path(wing.__file__)
    return sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]


@cache
def _code(file: Path) -> str:
    """Return the code of a file without docstrings, comments and layout."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or ([] if isinstance(node, ast.Module) else [ast.Pass()])
    return ast.unparse(tree)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} has no stable text to digest")
