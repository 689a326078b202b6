"""Files are told from those that were listed, whatever happens to them."""

import json
import sys
from importlib import import_module
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from resnet_core.storage.database import check_parquet, write_parquet, write_through
from resnet_core.storage.digest import (
    DIGESTS,
    MLFLOW_NOTE,
    DamagedVersionError,
    check_digests,
    check_seal,
    digests_of,
    remove_bytecode,
    source_digest,
    write_digests,
)
from resnet_core.storage.files import DamagedFileError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "version"
    for name, content in {"MLmodel": b"a: 1", "model/weights": bytes(range(256)), "code/a.py": b"A = 1\n"}.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(content)
    return made


def test_the_listed_files_pass_and_the_list_names_each_by_sha256(folder: Path) -> None:
    listed = write_digests(folder)
    check_digests(folder, listed)
    assert list(json.loads((folder / DIGESTS).read_text())) == ["MLmodel", "code/a.py", "model/weights"]
    # printf 'a: 1' | sha256sum
    assert digests_of(folder)["MLmodel"] == "16c3c6d78678d53d39ab2c7a5a7bc4596567b46a1a57000a2d707334f779b824"


def test_code_that_ran_before_the_list_was_made_is_not_in_it(folder: Path) -> None:
    compiled = folder / "code" / "__pycache__" / "a.cpython-311.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"compiled")
    listed = write_digests(folder)
    assert list(json.loads((folder / DIGESTS).read_text())) == ["MLmodel", "code/a.py", "model/weights"]
    check_digests(folder, listed)


def test_the_note_that_mlflow_leaves_is_no_extra_file(folder: Path) -> None:
    listed = write_digests(folder)
    (folder / MLFLOW_NOTE).write_text("model_name: a\n")
    check_digests(folder, listed)
    (folder / "model" / MLFLOW_NOTE).write_text("model_name: a\n")  # but only where MLflow leaves it
    with pytest.raises(DamagedVersionError, match=f"model/{MLFLOW_NOTE} is extra"):
        check_digests(folder, listed)


@pytest.mark.parametrize("place", [0, 100, 255])
def test_one_bit_is_enough(folder: Path, place: int) -> None:
    listed = write_digests(folder)
    content = bytearray((folder / "model" / "weights").read_bytes())
    content[place] ^= 1
    (folder / "model" / "weights").write_bytes(content)
    with pytest.raises(DamagedVersionError, match=r"^model/weights is changed$"):
        check_digests(folder, listed)


def test_missing_extra_and_moved_files_are_named(folder: Path) -> None:
    listed = write_digests(folder)
    (folder / "model" / "weights").rename(folder / "weights")
    (folder / "model" / ".hidden").write_bytes(b"")
    with pytest.raises(DamagedVersionError) as caught:
        check_digests(folder, listed)
    assert str(caught.value) == "model/.hidden is extra, model/weights is missing, weights is extra"


def test_whoever_changes_the_list_too_is_found_by_its_own_digest(folder: Path) -> None:
    listed = write_digests(folder)
    (folder / "code" / "a.py").write_bytes(b"import os\n")
    write_digests(folder)
    check_digests(folder)  # an accident would be found, this is not
    with pytest.raises(DamagedVersionError, match=f"{DIGESTS} is changed"):
        check_digests(folder, listed)
    (folder / DIGESTS).unlink()
    with pytest.raises(DamagedVersionError, match=f"{DIGESTS} is missing"):
        check_digests(folder, listed)


def test_bytecode_goes_and_a_file_of_its_name_does_not_hide(folder: Path) -> None:
    listed = write_digests(folder)
    (folder / "code" / "__pycache__").mkdir()
    (folder / "code" / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"hostile")
    with pytest.raises(DamagedVersionError, match=r"a\.cpython-311\.pyc is extra"):
        check_digests(folder, listed)
    remove_bytecode(folder)
    check_digests(folder, listed)
    (folder / "code" / "a.pyc").write_bytes(b"hostile")
    remove_bytecode(folder)
    with pytest.raises(DamagedVersionError, match=r"code/a\.pyc is extra"):
        check_digests(folder, listed)


CODE = {
    "__init__.py": '"""A wing."""\n',
    "room.py": '"""A room."""\n\n\ndef twice(n: int) -> int:\n    """Double it."""\n    return 2 * n  # at once\n',
}
REWORDED = {
    "__init__.py": "",
    "room.py": 'def twice(n: int) -> int:\n    """Return the double.\n    """\n\n    return (\n        2 * n\n    )\n',
}
CHANGED = {**REWORDED, "room.py": "def twice(n: int) -> int:\n    return 3 * n\n"}
MORE = {**REWORDED, "other.py": "THREE = 3\n"}


def digest_as(name: str, files: dict[str, str], path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (path / name).mkdir()
    for file, text in files.items():
        (path / name / file).write_text(text)
    monkeypatch.syspath_prepend(str(path))
    wing = import_module(name)
    monkeypatch.delitem(sys.modules, name)
    return source_digest(wing)


def test_a_wing_is_its_code_and_neither_its_words_nor_its_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"first": CODE, "reworded": REWORDED, "changed": CHANGED, "more": MORE}
    digests = {name: digest_as(f"wing_{name}", files, tmp_path, monkeypatch) for name, files in kinds.items()}
    assert digests["first"] == digests["reworded"]
    assert len(set(digests.values())) == 3


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A small file of rows as batches have, with a name that has the words of a seal."""
    table = pa.table({"uri": ["/a.png", "sha256", "sealed"], "probabilities": [[0.5, 0.5], None, [0.25, 0.75]]})
    write_parquet(UPath(tmp_path / "rows.parquet"), table)
    return tmp_path / "rows.parquet"


def test_every_reader_reads_a_sealed_file(sealed: Path) -> None:
    uris = ["/a.png", "sha256", "sealed"]
    check_parquet(UPath(sealed))
    assert pq.read_table(sealed)["uri"].to_pylist() == uris
    assert pd.read_parquet(sealed)["uri"].tolist() == uris
    assert [uri for (uri,) in duckdb.sql(f"select uri from '{sealed}' where uri <> '/b'").fetchall()] == uris


def test_a_flipped_bit_anywhere_in_a_sealed_file_is_found(sealed: Path) -> None:
    """Checksums of pages leave out the footer, and a flip there may change nothing that a reader sees."""
    content = sealed.read_bytes()
    for place in range(len(content)):
        for bit in (0, 7):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            sealed.write_bytes(flipped)
            with pytest.raises(ValueError, match="not those that were written"):
                check_seal(sealed)
    for cut in range(1, len(content), 7):
        sealed.write_bytes(content[:cut])
        with pytest.raises(DamagedFileError):
            check_parquet(UPath(sealed))


def test_files_of_earlier_releases_pass_and_tables_in_pieces_are_sealed(tmp_path: Path) -> None:
    old, new = UPath(tmp_path / "old.parquet"), UPath(tmp_path / "new.parquet")
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "old.parquet")
    check_parquet(old)
    pieces = (pa.table({"a": [k]}) for k in range(3))
    assert len([*write_through(pieces, new, {"note": "kept"})]) == 3
    check_parquet(new)
    assert pq.read_schema(tmp_path / "new.parquet").metadata[b"note"] == b"kept"
    assert pq.read_table(tmp_path / "new.parquet")["a"].to_pylist() == [0, 1, 2]
    content = bytearray((tmp_path / "new.parquet").read_bytes())
    content[content.rindex(b"note")] ^= 1
    (tmp_path / "new.parquet").write_bytes(content)
    with pytest.raises(DamagedFileError, match="not those that were written"):
        check_parquet(new)
