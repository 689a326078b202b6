"""Signatures of a version's files, by OpenSSF's model signing with a key of one's own: no network.

`model.sig` is a Sigstore bundle over the SHA-256 of every file, which `model_signing verify` reads too.
"""

import hashlib
from pathlib import Path
from types import ModuleType

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from resnet_core.errors import UserError
from resnet_core.storage.integrity import MLFLOW_NOTE, SIGNATURE_FILE, DamagedVersionError

MAKE_A_KEY = "Make a pair: openssl ecparam -genkey -name prime256v1 -noout -out private.pem; "
MAKE_A_KEY += "openssl ec -in private.pem -pubout -out public.pem"


def sign(folder: Path, private_key: Path) -> str:
    """Sign all files of the folder. Returns the SHA-256 of the public key. Raises UserError for a key that
    cannot be used."""
    signing, _, hashing = model_signing("GRAYLINE_SIGNING_KEY")
    try:
        public = load_pem_private_key(private_key.read_bytes(), None).public_key()
        config = signing.Config().use_elliptic_key_signer(private_key=private_key)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"GRAYLINE_SIGNING_KEY: {private_key} cannot be used ({reason(error)}). {MAKE_A_KEY}") from None
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=(SIGNATURE_FILE, MLFLOW_NOTE)))
    config.sign(folder, folder / SIGNATURE_FILE)
    return hashlib.sha256(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def verify(folder: Path, public_key: Path) -> None:
    """Raises DamagedVersionError unless the owner of the key has signed just these files, UserError for a
    key that cannot be used."""
    _, verifying, _ = model_signing("GRAYLINE_VERIFY_KEY")
    try:
        load_pem_public_key(public_key.read_bytes())
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"GRAYLINE_VERIFY_KEY: {public_key} cannot be used ({reason(error)}). {MAKE_A_KEY}") from None
    if not (folder / SIGNATURE_FILE).is_file():
        raise DamagedVersionError("it is not signed, and GRAYLINE_VERIFY_KEY is set")
    try:
        config.verify(folder, folder / SIGNATURE_FILE)
    except Exception as error:  # noqa: BLE001  errors of several libraries: whatever it is, nothing is verified
        short = reason(error).partition(":")[0]  # what follows are bytes
        raise DamagedVersionError(f"its signature is not one by {public_key} of these files ({short})") from None


def model_signing(setting: str) -> tuple[ModuleType, ModuleType, ModuleType]:
    """Its modules, which take a second to import. Raises UserError where they are not installed."""
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:  # model-signing 1.1 does not name pyOpenSSL among what it needs
        raise UserError(f"{setting}: needs {error.name}. Run `pip install 'grayline[sign]'`.") from None
    return signing, verifying, hashing


def reason(error: Exception) -> str:
    """The first line of the error's own words."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
