"""Is a registered version what was registered? Its files against their digests, and against a signature.

The digests lie in the version, as `digests.json`; the digest of that file is a tag of the version, in
MLflow's database. Whoever can write the files alone is found out, and whoever can write both is where
versions are signed: the private key is neither in the files nor in the database.
"""

import hashlib
import logging
import tempfile
from pathlib import Path
from types import ModuleType

import mlflow.artifacts
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from mlflow.exceptions import MlflowException

from resnet_core.errors import UserError
from resnet_core.storage.digest import (
    DIGESTS,
    MLFLOW_NOTE,
    SIGNATURE_FILE,
    DamagedVersionError,
    check_digests,
    remove_bytecode,
    write_digests,
)
from tasks.registry.runs import client
from tasks.values import ModelVersion

log = logging.getLogger("grayline")

FILES = "grayline.files"  # tag: the SHA-256 of the version's digests.json
SIGNATURE = "grayline.signature"  # tag: the SHA-256 of the public key that verifies its signature


def check_version(tracking_uri: str, model: ModelVersion, verify_key: str | None = None) -> None:
    """Raises DamagedVersionError when the version's files are not those that were registered, and where
    there is a key, when they are not signed by its owner."""
    with tempfile.TemporaryDirectory() as scratch:
        verified_folder(tracking_uri, model, verify_key, Path(scratch))


def verified_folder(
    tracking_uri: str, model: ModelVersion, verify_key: str | None = None, to: Path | None = None
) -> Path:
    """The version's files in a local folder, after the same check. Those of a local store are where they
    are; others are downloaded, below `to` if it is given."""
    registry = client(tracking_uri)
    listed = registry.get_model_version(model.name, model.version).tags.get(FILES)
    place = registry.get_model_version_download_uri(model.name, model.version)
    try:
        # Into `to` would copy a local store's files too.
        local = place.startswith(("file:", "/"))
        folder = Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=place, tracking_uri=tracking_uri, dst_path=None if local or to is None else str(to)
            )
        )
    except (MlflowException, OSError) as error:
        raise _refusal(model, f"its files are gone from {place} ({type(error).__name__})") from None
    try:
        if listed is None:
            log.warning("%s version %s was registered without digests: its files are not checked", *_name_of(model))
        else:
            remove_bytecode(folder)
            check_digests(folder, listed)
        if verify_key:
            verify(folder, Path(verify_key))
    except DamagedVersionError as error:
        raise _refusal(model, str(error)) from None
    return folder


def _name_of(model: ModelVersion) -> tuple[str, str]:
    return model.name, model.version


def _refusal(model: ModelVersion, why: str) -> DamagedVersionError:
    return DamagedVersionError(
        f"{model.name} version {model.version} is refused: {why}. Put its files back as they were, or use "
        f"another version: `grayline history {model.name}` lists those that were champions."
    )


def seal(folder: Path, signing_key: str | None) -> tuple[dict[str, str], list[Path]]:
    """Put the digests, and where there is a key the signature, beside a version's files. Returns its tags,
    and what was written."""
    tags, files = {FILES: write_digests(folder)}, [folder / DIGESTS]
    if signing_key:
        tags[SIGNATURE] = sign(folder, Path(signing_key))
        files.append(folder / SIGNATURE_FILE)
    return tags, files


_MAKE_A_KEY = "Make a pair: openssl ecparam -genkey -name prime256v1 -noout -out private.pem; "
_MAKE_A_KEY += "openssl ec -in private.pem -pubout -out public.pem"


def sign(folder: Path, private_key: Path) -> str:
    """Sign all files of the folder. Returns the SHA-256 of the public key. Raises UserError for a key that
    cannot be used."""
    signing, _, hashing = model_signing("GRAYLINE_SIGNING_KEY")
    try:
        public = load_pem_private_key(private_key.read_bytes(), None).public_key()
        config = signing.Config().use_elliptic_key_signer(private_key=private_key)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"GRAYLINE_SIGNING_KEY: {private_key} cannot be used ({reason(error)}). {_MAKE_A_KEY}"
        ) from None
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
        raise UserError(f"GRAYLINE_VERIFY_KEY: {public_key} cannot be used ({reason(error)}). {_MAKE_A_KEY}") from None
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
