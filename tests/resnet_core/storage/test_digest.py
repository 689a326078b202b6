"""Files are told from those that were listed, whatever happens to them."""

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

from resnet_core.storage.digest import (
    DIGESTS,
    MLFLOW_NOTE,
    DamagedVersionError,
    check_digests,
    digests_of,
    remove_bytecode,
    source_digest,
    write_digests,
)


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
