"""Encrypted files: the holder of the key reads them, nobody else learns so much as a column's name."""

import base64
import textwrap
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from upath import UPath

from resnet_core.errors import UserError
from resnet_core.shards import encryption
from resnet_core.shards import format as shards
from resnet_core.shards.encryption import Keys, load_keys, parse_keys
from resnet_core.storage.files import DamagedFileError
from tests.resnet_core.shards.test_format import CLASSES, Digits, table, write

SECRETS = {name: base64.b64encode(bytes([k]) * 32).decode() for k, name in enumerate(("2025", "2026", "2027"), start=7)}


def keyring(*names: str, **others: str) -> Keys:
    """The last one is current."""
    secrets = {name: SECRETS[name] for name in names} | others
    return parse_keys("\n".join(f"{name} = {secret}" for name, secret in secrets.items()))


@pytest.fixture
def shard(tmp_path: Path, digits: Digits) -> UPath:
    """1,100 digits in two row groups, written with the key 2026."""
    return write(UPath(tmp_path), digits, 1100, 1100, keyring("2026"))[0]


@pytest.fixture
def part(tmp_path: Path, digits: Digits) -> UPath:
    """The same images as ingest keeps them."""
    rows = table(digits, range(1100))
    rows = rows.drop_columns(["levels", "pixels"]).append_column("pixels", shards.packed(digits[0][:1100]))
    shards.write_pixels(rows, tmp_path / "part.parquet", keyring("2026"))
    return UPath(tmp_path / "part.parquet")


def test_with_the_key_everything_is_there(shard: UPath, part: UPath, digits: Digits) -> None:
    keys = keyring("2026")
    for split, rows in (("train", [k for k in range(1100) if k % 5]), ("test", list(range(0, 1100, 5)))):
        images = shards.read([shard], split, CLASSES, keys)  # type: ignore[arg-type]
        assert images.image_ids.tolist() == [f"image-{k}" for k in rows]
        assert np.array_equal(images.pixels, digits[0][rows])
    assert np.array_equal(shards.unpacked(shards.open_file(part, keys).read()["pixels"], 8), digits[0][:1100])


READERS: dict[str, Callable[[str], object]] = {
    "PyArrow": pq.read_table,
    "PyArrow's schema": pq.read_schema,
    "PyArrow's footer": pq.read_metadata,
    "pandas": pd.read_parquet,
    "DuckDB": lambda path: duckdb.sql(f"select * from '{path}'").fetchall(),
    "DuckDB's schema": lambda path: duckdb.sql(f"describe from '{path}'").fetchall(),
    "Polars": polars.read_parquet,
    "Polars' schema": polars.read_parquet_schema,
}


@pytest.mark.parametrize("reader", READERS)
def test_without_the_key_nobody_reads_anything(
    shard: UPath, part: UPath, tmp_path: Path, digits: Digits, reader: str
) -> None:
    shards.write_table(table(digits, range(1100)), tmp_path / "clear.parquet", keys=None)
    READERS[reader](str(tmp_path / "clear.parquet"))
    for path in (shard, part):
        with pytest.raises((OSError, duckdb.Error, polars.exceptions.PolarsError)):
            READERS[reader](path.path)


def test_the_bytes_hold_no_name_no_label_and_no_pixels(
    shard: UPath, part: UPath, tmp_path: Path, digits: Digits
) -> None:
    rows = table(digits, range(1100))
    secrets = [b"image-5", b"image_id", b"levels", b"pixels", b"split", b"train", b"grayline", digits[0][3].tobytes()]
    # First that the search finds what is there; compression would hide it, as encryption should.
    pq.write_table(rows, tmp_path / "clear.parquet", compression="none", use_dictionary=False)
    clear = (tmp_path / "clear.parquet").read_bytes()
    assert all(secret in clear for secret in secrets)
    for path in (shard, part):
        data = path.read_bytes()
        assert not [secret for secret in secrets if secret in data]
        assert len(np.unique(np.frombuffer(data, np.uint8))) == 256
        assert b"2026" in data  # the key's name: whoever has several keys learns which one it takes


def test_the_key_that_is_wanted_is_named(shard: UPath) -> None:
    for keys, words in (
        (None, "is encrypted. Set GRAYLINE_KEY_FILE or GRAYLINE_KEYS"),
        (keyring("2025"), "the key '2026' that it was written with is missing. Add it to GRAYLINE_KEY"),
        (parse_keys(f"2026 = {SECRETS['2025']}"), "'2026' differs from the key of that name that it was written with"),
    ):
        with pytest.raises(UserError, match=words) as raised:
            shards.read([shard], "train", CLASSES, keys)
        assert str(raised.value).startswith(f"{shard}: ")


def test_a_new_key_is_taken_up_and_the_old_files_stay_readable(tmp_path: Path, digits: Digits) -> None:
    old = write(UPath(tmp_path / "old"), digits, 150, keys=keyring("2025"))
    new = write(UPath(tmp_path / "new"), digits, 150, keys=keyring("2025", "2026"))
    for files in (old, new):
        assert len(shards.read(files, "train", CLASSES, keyring("2026", "2027", "2025"))) == 120
    assert len(shards.read(new, "train", CLASSES, keyring("2026"))) == 120
    with pytest.raises(UserError, match="the key '2025'"):
        shards.read(old, "train", CLASSES, keyring("2026"))


def test_files_in_the_clear_are_read_with_keys_too(tmp_path: Path, digits: Digits) -> None:
    files = write(UPath(tmp_path), digits)
    assert len(shards.read(files, "train", CLASSES, keyring("2026"))) == 480


def test_what_was_tampered_with_is_not_read(shard: UPath) -> None:
    data = bytearray(shard.read_bytes())
    for place in range(1000, len(data) - 1000, len(data) // 20):
        changed = data.copy()
        changed[place] ^= 1
        shard.write_bytes(bytes(changed))
        with pytest.raises(DamagedFileError, match=r"(?i)decrypt|CRC"):
            shards.open_file(shard, keyring("2026")).read()


def test_every_file_has_a_key_of_its_own(tmp_path: Path, digits: Digits) -> None:
    for name in ("first", "second"):
        shards.write_table(table(digits, range(1000)), tmp_path / name, keyring("2026"))
    first, second = ((tmp_path / name).read_bytes() for name in ("first", "second"))
    blocks = [{data[k : k + 16] for k in range(0, len(data) - 16, 16)} for data in (first, second)]
    assert len(blocks[0]) > 5000
    assert len(blocks[0] & blocks[1]) < 20  # what is written around the wrapped key, in the clear


def test_the_recipe_for_pyarrow_alone(shard: UPath, digits: Digits) -> None:
    """It is run as the module's documentation gives it."""
    lines = [line for line in str(encryption.__doc__).splitlines() if line.startswith("    ") or not line]
    names = {"path": shard.path, "KEYS": {"2026": base64.b64decode(SECRETS["2026"])}}
    imports = "import base64, pyarrow.parquet.encryption\n"
    exec(imports + textwrap.dedent("\n".join(lines)), scope := {"AESGCM": AESGCM, **names})
    found = scope["table"]
    assert isinstance(found, pa.Table)
    assert found["image_id"].to_pylist() == [f"image-{k}" for k in range(1100)]
    assert np.array_equal(found["pixels"].chunk(0).to_numpy_ndarray(), digits[0][: len(found["pixels"].chunk(0))])


def test_keys_are_lines_of_names_and_base64() -> None:
    keys = parse_keys(f"# ours\n\n 2025={SECRETS['2025']}\n2026 = {SECRETS['2026']} ; short = {'A' * 22}==\n")
    assert keys.current == "short"
    assert dict(keys.named) == {"2025": b"\x07" * 32, "2026": b"\x08" * 32, "short": bytes(16)}
    assert repr(keys) == "Keys(current='short')"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "keys: holds no key. Add one: .*openssl rand -base64 32"),
        ("# nothing\n", "holds no key"),
        (f"a = {SECRETS['2025']}\n{SECRETS['2026']}", "keys, line 2: is not NAME = BASE64"),
        (f"a b = {SECRETS['2025']}", "keys, line 1: is not NAME = BASE64"),
        ("a = ", "line 1: is not NAME = BASE64"),
        ("a = " + "0f" * 32, "line 1: 'a' is not base64 of 32 .or 16. bytes. Make a key: openssl rand -base64 32"),
        ("a = what?", "line 1: 'a' is not base64"),
        (f"a = {SECRETS['2025']}\n\na = {SECRETS['2026']}", "line 3: the name 'a' is given twice"),
    ],
)
def test_wrong_keys_are_the_users_error_which_tells_no_secret(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        parse_keys(text)
    assert not [secret for secret in [*SECRETS.values(), "0f0f", "what?"] if secret in str(raised.value)]


def test_keys_come_from_the_environment_or_a_file_that_only_the_owner_reads(tmp_path: Path) -> None:
    text, file = f"2026 = {SECRETS['2026']}", tmp_path / "keys"
    assert load_keys(None, None) is None
    assert load_keys(text, None) == keyring("2026")
    with pytest.raises(UserError, match=r"cannot read .*keys .No such file or directory"):
        load_keys(None, str(file))
    file.write_text(text)
    file.chmod(0o644)
    with pytest.raises(UserError, match=f"everybody .* {file}. Run: chmod 600 {file}"):
        load_keys(None, str(file))
    file.chmod(0o640)
    assert load_keys(None, str(file)) == keyring("2026")
    with pytest.raises(UserError, match="both are set"):
        load_keys(text, str(file))
    file.write_bytes(bytes([255, 0]))
    with pytest.raises(UserError, match="it is not a text file"):
        load_keys(None, str(file))
