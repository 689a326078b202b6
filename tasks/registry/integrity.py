"""Integrity of a registered version: its files against their digests and against a signature.

`digests.json` in the version has the digests; its own digest is a tag in MLflow's database. The check finds changes by
anyone who can write only the files. A signature finds also changes by anyone who can write files and database: the
private key is in neither.
"""

import hashlib
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from resnet_core.errors import JobError, UserError
from resnet_core.storage.digest import (
    DIGESTS,
    GONE,
    MLFLOW_NOTE,
    SIGNATURE_FILE,
    DamagedVersionError,
    check_digests,
    remove_bytecode,
    write_digests,
)
from resnet_core.storage.files import says_full
from tasks.registry.contents import check_contents
from tasks.values import ModelVersion

log = logging.getLogger("grayline")

FILES = "grayline.files"  # tag: the SHA-256 of the version's digests.json
SIGNATURE = "grayline.signature"  # tag: the SHA-256 of the public key that verifies its signature


def check_version(tracking_uri: str, model: ModelVersion, verify_key: str | None = None) -> None:
    """Raises DamagedVersionError if the version's files are not those registered, or not signed by the key."""
    with verified_folder(tracking_uri, model, verify_key):
        pass


@contextmanager
def verified_folder(tracking_uri: str, model: ModelVersion, verify_key: str | None = None) -> Iterator[Path]:
    """Yield a local folder with the version's files after the check; files of a server are downloaded meanwhile."""
    with tempfile.TemporaryDirectory(prefix="grayline-") as scratch:
        yield _verified(tracking_uri, model, verify_key, scratch)


def _verified(tracking_uri: str, model: ModelVersion, verify_key: str | None, scratch: str) -> Path:
    from mlflow.exceptions import MlflowException  # MLflow takes two seconds, and `direct` does without it

    from tasks.registry.patience import download
    from tasks.registry.runs import client

    registry = client(tracking_uri)
    listed = registry.get_model_version(model.name, model.version).tags.get(FILES)
    place = registry.get_model_version_download_uri(model.name, model.version)
    with readable(model):
        try:
            # With `dst_path`, MLflow would copy local files, too.
            local = place.startswith(("file:", "/"))
            folder = download(tracking_uri, place, None if local else scratch)
        except (MlflowException, *GONE) as error:  # the registry's or the disk's own word: no answer is another error
            raise refusal(model, f"its files are gone from {place} ({type(error).__name__})") from None
    check_files(folder, model, listed, verify_key)
    return folder


def check_files(folder: Path, model: ModelVersion, listed: str | None, verify_key: str | None) -> None:
    """Raise DamagedVersionError unless these are the version's files. listed: its tag FILES."""
    with readable(model):
        try:
            remove_bytecode(folder)
            check_contents(folder)
            if listed is None:
                log.warning("%s was registered without digests: its files are not checked", model)
            else:
                check_digests(folder, listed)
            if verify_key:
                verify(folder, Path(verify_key))
        except DamagedVersionError as error:
            raise refusal(model, str(error)) from None


@contextmanager
def readable(model: ModelVersion) -> Iterator[None]:
    """Raise JobError where a disk gives an error, which says nothing about the version's files."""
    try:
        yield
    except OSError as error:
        if says_full(error):
            raise
        text = f"{error.filename or 'a file'} cannot be read ({error.strerror or error}). Nothing was decided."
        raise JobError(f"{model}: {text} Mend the disk or the rights, then run it again.") from None


def refusal(model: ModelVersion, why: str) -> DamagedVersionError:
    return DamagedVersionError(
        f"{model} is refused: {why}. Restore its files, or use another version: "
        f"`grayline history {model.name}` lists the champions."
    )


def seal(folder: Path, signing_key: str | None) -> tuple[dict[str, str], list[Path]]:
    """Write digests, and with a key the signature, beside a version's files. Returns tags and written files."""
    tags, files = {FILES: write_digests(folder)}, [folder / DIGESTS]
    if signing_key:
        tags[SIGNATURE] = sign(folder, Path(signing_key))
        files.append(folder / SIGNATURE_FILE)
    return tags, files


MAKE_A_KEY = "Make a key pair: openssl ecparam -genkey -name prime256v1 -noout -out private.pem; "
MAKE_A_KEY += "openssl ec -in private.pem -pubout -out public.pem"


def _check_is_path(key: Path, setting: str) -> None:
    """Raises UserError, which does not repeat it, for a key in the place of its file's path."""
    if "-----BEGIN" in str(key) or "\n" in str(key):
        raise UserError(f"{setting}: holds a key itself. Write the key to a file, and set the path of that file.")


def sign(folder: Path, private_key: Path) -> str:
    """Sign all files of the folder. Returns the SHA-256 of the public key. Raises UserError for an unusable key."""
    config, public = _signer(private_key)
    config.sign(folder, folder / SIGNATURE_FILE)
    return hashlib.sha256(public).hexdigest()


def _signer(private_key: Path) -> tuple[Any, bytes]:
    """Return what signs by a private key, and the public key as PEM. Raises UserError for an unusable key."""
    _check_is_path(private_key, "GRAYLINE_SIGNING_KEY")
    signing, _, hashing = _model_signing("GRAYLINE_SIGNING_KEY")
    try:
        public = load_pem_private_key(private_key.read_bytes(), None).public_key()
        config = signing.Config().use_elliptic_key_signer(private_key=private_key)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"GRAYLINE_SIGNING_KEY: {private_key} cannot be used ({_reason(error)}). {MAKE_A_KEY}"
        ) from None
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=(SIGNATURE_FILE, MLFLOW_NOTE)))
    return config, public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _verifier(public_key: Path) -> Any:
    """Return what verifies by a public key. Raises UserError for an unusable key."""
    _check_is_path(public_key, "GRAYLINE_VERIFY_KEY")
    _, verifying, _ = _model_signing("GRAYLINE_VERIFY_KEY")
    try:
        load_pem_public_key(public_key.read_bytes())
        return verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"GRAYLINE_VERIFY_KEY: {public_key} cannot be used ({_reason(error)}). {MAKE_A_KEY}") from None


def check_keys(signing_key: str | None, verify_key: str | None) -> None:
    """Raise UserError for a key that cannot sign or verify, before anything is done that needs it."""
    if signing_key:
        _signer(Path(signing_key))
    if verify_key:
        _verifier(Path(verify_key))


def verify(folder: Path, public_key: Path) -> None:
    """Raises DamagedVersionError unless the key's owner signed exactly these files, UserError for an unusable key."""
    config = _verifier(public_key)
    if not (folder / SIGNATURE_FILE).is_file():
        raise DamagedVersionError("it is not signed, and GRAYLINE_VERIFY_KEY is set")
    try:
        config.verify(folder, folder / SIGNATURE_FILE)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  errors of several libraries: nothing is verified
        short = _reason(error).partition(":")[0]  # bytes follow
        raise DamagedVersionError(f"its signature is not one by {public_key} of these files ({short})") from None


def _model_signing(setting: str) -> tuple[ModuleType, ModuleType, ModuleType]:
    """Import model_signing's modules, which takes a second. Raises UserError if they are not installed."""
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:  # model-signing 1.1 does not name pyOpenSSL among what it needs
        raise UserError(f"{setting}: needs {error.name}. Run `pip install 'grayline[sign]'`.") from None
    return signing, verifying, hashing


def _reason(error: Exception) -> str:
    """Return the first line of the error's text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
