"""Encryption of Parquet files, footers included, and the user's keys: Parquet modular encryption.

Every file has a random key of its own. The file holds it, wrapped with one of the user's keys (AES-GCM, RFC 5116),
and the name of that key. A user changes keys by adding a new one; old files need the old key.

PyArrow alone reads a file like this:

    class Kms(pyarrow.parquet.encryption.KmsClient):
        def unwrap_key(self, wrapped_key, master_key_identifier):
            wrapped, name = base64.b64decode(wrapped_key), master_key_identifier
            return AESGCM(KEYS[name]).decrypt(wrapped[:12], wrapped[12:], name.encode())

    factory = pyarrow.parquet.encryption.CryptoFactory(lambda config: Kms())
    properties = factory.file_decryption_properties(pyarrow.parquet.encryption.KmsConnectionConfig())
    table = pyarrow.parquet.read_table(path, decryption_properties=properties)

`KEYS` is a dict from names to bytes, `AESGCM` is `cryptography.hazmat.primitives.ciphers.aead.AESGCM`.
"""

import base64
import binascii
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pyarrow import parquet as pq
from pyarrow.parquet import encryption as pe

from resnet_core.errors import UserError

_NONCE = 12  # bytes; the length for GCM (NIST SP 800-38D, section 8.2)
LENGTHS = (16, 32)  # bytes: AES-128, AES-256
WHERE = "GRAYLINE_KEY_FILE or GRAYLINE_KEYS"
EXAMPLE = '(umask 077; echo "2026-11 = $(openssl rand -base64 32)" >> FILE)'


@dataclass(frozen=True)
class Keys:
    """The user's keys, name and bytes. `current` names the key for new files."""

    current: str
    named: tuple[tuple[str, bytes], ...] = field(repr=False)


def load_keys(text: str | None, file: str | None) -> Keys | None:
    """Return the keys in `text` (GRAYLINE_KEYS) or `file` (GRAYLINE_KEY_FILE), or None if neither is set.

    Raises UserError if both are set, or if the file cannot be read or is readable by everybody.
    """
    if text and file:
        raise UserError("GRAYLINE_KEYS and GRAYLINE_KEY_FILE: both are set. Unset one of them.")
    if text:
        return parse_keys(text, "GRAYLINE_KEYS")
    if not file:
        return None
    if re.search(r"=\s*[A-Za-z0-9+/]{20,}=*\s*$", file):
        raise UserError("GRAYLINE_KEY_FILE: holds a key itself. Set GRAYLINE_KEYS to it, or write it to a file.")
    path = Path(file)
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise UserError(
            f"GRAYLINE_KEY_FILE: cannot read {file} ({reason}). Correct the path, or make the file: {EXAMPLE}"
        ) from None
    if os.name == "posix" and mode & stat.S_IRWXO:
        raise UserError(f"GRAYLINE_KEY_FILE: everybody on this machine can read or write {file}. Run: chmod 600 {file}")
    return parse_keys(text, file)


def parse_keys(text: str, where: str = "keys") -> Keys:
    """Parse lines (or parts between semicolons) `NAME = BASE64` of 16 or 32 bytes. The last key is current.

    Empty lines and lines that begin with `#` are skipped. Raises UserError with `where` and the line's number, but
    without its text, which is secret.
    """
    values: dict[str, bytes] = {}
    for number, line in enumerate(re.split(r"[\n;]", text), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, key = _parse_line(line, f"{where}, line {number}")
        if name in values:
            raise UserError(f"{where}, line {number}: the name {name!r} is given twice. Rename one of the keys.")
        values[name] = key
    if not values:
        raise UserError(f"{where}: holds no key. Add one: {EXAMPLE}")
    return Keys(next(reversed(values)), tuple(values.items()))


def _parse_line(line: str, where: str) -> tuple[str, bytes]:
    name, _, encoded = (part.strip() for part in line.partition("="))
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name) or not encoded:
        raise UserError(f"{where}: is not NAME = BASE64 (a name has letters, digits and . _ -). Add a key: {EXAMPLE}")
    try:
        key = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        key = b""
    if len(key) not in LENGTHS:
        raise UserError(f"{where}: {name!r} is not base64 of 32 (or 16) bytes. Make a key: openssl rand -base64 32")
    return name, key


class _Wrapping(pe.KmsClient):  # type: ignore[misc]  # pyarrow has no types
    """Wrap a file's key with the user's. PyArrow calls it once a file."""

    def __init__(self, keys: Keys) -> None:
        super().__init__()
        self.keys = dict(keys.named)

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        nonce = os.urandom(_NONCE)
        cipher = AESGCM(self.keys[master_key_identifier])
        return base64.b64encode(nonce + cipher.encrypt(nonce, key_bytes, master_key_identifier.encode()))

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        name, wrapped = master_key_identifier, base64.b64decode(wrapped_key)
        if name not in self.keys:
            raise UserError(f"the key {name!r} that it was written with is missing. Add it to {WHERE}")
        try:
            return AESGCM(self.keys[name]).decrypt(wrapped[:_NONCE], wrapped[_NONCE:], name.encode())
        except InvalidTag:
            raise UserError(
                f"the key {name!r} differs from the key of that name that it was written with. Correct it in {WHERE}"
            ) from None


def encryption_properties(keys: Keys) -> pq.FileEncryptionProperties:
    """Return the properties for writing a single file with the current key."""
    return _factory(keys).file_encryption_properties(
        pe.KmsConnectionConfig(),
        pe.EncryptionConfiguration(
            footer_key=keys.current,
            uniform_encryption=True,
            plaintext_footer=False,  # a plain one shows names and types of columns, and numbers of rows
            double_wrapping=False,  # saves calls to a key server, which does not exist here
            data_key_length_bits=256,
        ),
    )


def decryption_properties(keys: Keys) -> pq.FileDecryptionProperties:
    """Return the properties for reading a file, encrypted or not."""
    return _factory(keys).file_decryption_properties(pe.KmsConnectionConfig())


def _factory(keys: Keys) -> pe.CryptoFactory:
    return pe.CryptoFactory(lambda config: _Wrapping(keys))
