"""The machine's settings: the only place that looks into the environment."""

from __future__ import annotations

import os
import re
import resource
import stat
import warnings
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from upath import UPath

from resnet_core.cores import thread_variables
from resnet_core.credentials import public
from resnet_core.errors import UserError
from resnet_core.images.limits import Limits
from resnet_core.policy import Policy, decide_by
from resnet_core.storage.compressed import be_private
from resnet_core.storage.files import is_local, store_path, write_text
from tasks.access.modes import Group, close_store, keep_private
from tasks.access.passwords import let_in
from tasks.access.prefect_key import use_key
from tasks.access.upkeep import upkeep
from tasks.store import STORE_MARK, Store, sqlite_address
from tasks.validation import invalid, public_texts

if TYPE_CHECKING:
    from resnet_core.shards.encryption import Keys


class Settings(BaseSettings):
    """`GRAYLINE_STORE` and its like; MLflow's and Prefect's own variables keep their own names."""

    model_config = SettingsConfigDict(env_prefix="GRAYLINE_", frozen=True)

    store: str = Field("data/store", description="Folder or fsspec URL that all files go under.")
    group: Group = Field("none", description="What the group of new files may do with them: none, read or write.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps.")
    runner: Literal["threads", "processes", "ray"] = Field("threads", description="Where a flow's tasks run.")
    engine: str = Field(
        "auto", description="What scores a batch: auto (the fastest here), torch, compile, onnx, openvino or int8."
    )
    max_bytes: int = Field(Limits.bytes, description="Files of more bytes are quarantined, unread.")
    max_pixels: int = Field(Limits.pixels, description="Images of more pixels are quarantined, undecoded.")
    max_seconds: float = Field(Limits.seconds, description="Images that take longer are quarantined.")
    free_bytes: int = Field(
        16 * 1024**2, description="Space that a night or a batch must leave free on its disk; 0 asks for nothing."
    )
    keys: SecretStr | None = Field(None, description="Encryption keys: lines of `name = base64`, the last is current.")
    key_file: str | None = Field(None, description="A file of such lines.")
    allowed_protocols: str = Field(
        ", ".join(Policy.protocols), description="What sources, tables and outputs may lie on, beside the store."
    )
    private_hosts: str = Field(
        "", description="Names, addresses or networks (10.0.0.0/8) that https may reach though they are private."
    )
    manifest_roots: str = Field(
        "",
        description="Folders and URLs, with commas: tables may name their files beside those under their own source.",
    )
    max_unpacked_bytes: int = Field(
        Policy.unpacked_bytes, description="Bytes that are unpacked of an archive or of another container."
    )
    max_ratio: float = Field(Policy.ratio, description="Unpacked bytes for a packed one; the first 256 MiB are free.")
    max_members: int = Field(Policy.members, description="Files in an archive, rows of a table, images of an IDX file.")
    max_depth: int = Field(Policy.depth, description="Brackets within brackets, in YAML and JSON.")
    max_unpack_seconds: float = Field(Policy.seconds, description="Seconds for listing or unpacking a container.")
    access_file: str | None = Field(
        None, description="A file of URLs with user and password, a line each: they open what is named without."
    )
    resident_bytes: int = Field(
        2 * 1024**3, description="Training pixels up to this size are held in the device's memory."
    )
    keep_days: int = Field(30, ge=1, description="`prune` leaves what is younger; so does Prefect with its runs.")
    keep_versions: int = Field(10, ge=1, description="`prune` leaves so many of a model's newest versions, at any age.")
    prune_nightly: bool = Field(False, description="Whether every night ends with `prune --delete`.")
    prefect_port: int = Field(4200, description="Port of the local stack's Prefect server.")
    mlflow_port: int = Field(5000, description="Port of the local stack's MLflow server.")
    prefect_public: str | None = Field(
        None, description="`up --public`: the https address by which a TLS proxy in front serves Prefect."
    )
    mlflow_public: str | None = Field(
        None, description="`up --public`: the https address by which a TLS proxy in front serves MLflow."
    )
    mlflow_tracking_uri: str | None = Field(None, validation_alias="MLFLOW_TRACKING_URI")
    mlflow_tracking_username: str | None = Field(None, validation_alias="MLFLOW_TRACKING_USERNAME")
    mlflow_tracking_password: SecretStr | None = Field(None, validation_alias="MLFLOW_TRACKING_PASSWORD")
    tune_storage: str | None = Field(
        None, description="Where tunings are kept, an SQLAlchemy URL; by default SQLite in the store."
    )
    signing_key: str | None = Field(None, description="Private key (PEM) that signs each version that is registered.")
    verify_key: str | None = Field(None, description="Public key (PEM): a version that it does not verify is refused.")
    prefect_api_url: str | None = Field(None, validation_alias="PREFECT_API_URL")
    prefect_api_auth_string: SecretStr | None = Field(None, validation_alias="PREFECT_API_AUTH_STRING")
    prefect_server_api_auth_string: SecretStr | None = Field(None, validation_alias="PREFECT_SERVER_API_AUTH_STRING")
    ray_address: str | None = Field(None, validation_alias="RAY_ADDRESS")

    @model_validator(mode="before")
    @classmethod
    def _urls_are_public(cls, content: Any) -> Any:
        return public_texts(content)

    @property
    def root(self) -> UPath:
        """Return the store's absolute path."""
        return store_path(self.store)

    @property
    def limits(self) -> Limits:
        """Return the limits for an image."""
        return Limits(self.max_bytes, self.max_pixels, self.max_seconds)

    @property
    def policy(self) -> Policy:
        """Return what input may name, and what unpacking it may cost. The store's own protocol is allowed."""
        own = () if is_local(self.root) else (self.root.protocol,)
        return Policy(
            (*_listed(self.allowed_protocols), *own),
            _listed(self.private_hosts),
            _listed(self.manifest_roots),
            self.max_unpacked_bytes,
            self.max_ratio,
            self.max_bytes,
            self.max_members,
            self.max_depth,
            self.max_unpack_seconds,
        )

    @property
    def tracking_uri(self) -> str:
        """Return MLflow's address: its own variable, else SQLite in the store."""
        if self.mlflow_tracking_uri:
            return self.mlflow_tracking_uri
        if not is_local(self.root):
            raise UserError(f"MLFLOW_TRACKING_URI: set it; SQLite cannot lie in the store {self.store}.")
        return Store(self.root).tracking_uri()

    def tuning_uri(self, dataset: str) -> str:
        """Return Optuna's storage: GRAYLINE_TUNE_STORAGE, else SQLite in the store."""
        if self.tune_storage:
            return self.tune_storage
        if not is_local(self.root):
            raise UserError(
                "GRAYLINE_TUNE_STORAGE: set it, to sqlite:////FOLDER/tune.db or a PostgreSQL URL; SQLite cannot lie "
                f"in the store {self.store}."
            )
        return Store(self.root).tuning_uri(dataset)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


@lru_cache(maxsize=1)
def _policy_of(_: tuple[str | None, ...]) -> Policy:
    return _read_settings().policy


def _decide() -> Policy:
    """Return the policy of the environment as it is now, which is seldom read anew."""
    return _policy_of(tuple(map(os.environ.get, _POLICY)))


_POLICY = [f"GRAYLINE_{name}" for name in ("STORE", "ALLOWED_PROTOCOLS", "PRIVATE_HOSTS", "MANIFEST_ROOTS")]
_POLICY += [
    f"GRAYLINE_MAX_{name}" for name in ("UNPACKED_BYTES", "RATIO", "BYTES", "MEMBERS", "DEPTH", "UNPACK_SECONDS")
]
decide_by(_decide)  # in every process that has settings at all


def allow_typed(place: str) -> None:
    """Allow a URL that a person types on the command line, here and in processes to come: settings are of input."""
    url, settings = urlsplit(place), _read_settings()
    if url.scheme in ("http", "https") and url.hostname:
        os.environ["GRAYLINE_ALLOWED_PROTOCOLS"] = f"{settings.allowed_protocols}, {url.scheme}"
        os.environ["GRAYLINE_PRIVATE_HOSTS"] = f"{settings.private_hosts}, {url.hostname}".lstrip(", ")


def _read_settings() -> Settings:
    """Read the settings. Raises UserError for an invalid variable."""
    try:
        return Settings()
    except ValidationError as error:
        name = f"{Settings.model_config['env_prefix']}{error.errors()[0]['loc'][0]}".upper()
        raise UserError(f"{name}: {invalid(error)}") from None


def keys_for(encrypt: bool, settings: Settings) -> Keys | None:
    """Return the keys for files with pixels; None if nothing is encrypted.

    Raises UserError if a key is needed and missing, or invalid.
    """
    if not encrypt:
        return None
    keys = known_keys(settings)
    if keys is None:
        from resnet_core.shards.encryption import EXAMPLE

        raise UserError(
            f"encrypt: no key is set. Make a file of keys with `{EXAMPLE}`, and set GRAYLINE_KEY_FILE to it."
        )
    return keys


def known_keys(settings: Settings) -> Keys | None:
    """Return all keys that are set; None without any."""
    from resnet_core.shards.encryption import load_keys  # PyArrow and cryptography take their time to import

    keys = load_keys(settings.keys.get_secret_value() if settings.keys else None, settings.key_file)
    if keys is not None:
        keep_confidential()
    return keys


def _learn_access(file: str) -> None:
    """Remember the URLs of `GRAYLINE_ACCESS_FILE`. Raises UserError if others can read it, or nobody."""
    try:
        mode, text = Path(file).stat().st_mode, Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise UserError(f"GRAYLINE_ACCESS_FILE: cannot read {file} ({reason}). Correct the path.") from None
    if os.name == "posix" and mode & stat.S_IRWXO:
        raise UserError(f"GRAYLINE_ACCESS_FILE: everybody on this machine can read {file}. Run: chmod 600 {file}")
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if line and not line.startswith("#") and public(line) == line:
            raise UserError(f"GRAYLINE_ACCESS_FILE: line {number} of {file} is not a URL with a secret. Remove it.")


def keep_confidential() -> None:
    """Leave no images in unpacked copies or in dumps of this process's memory, from now on."""
    be_private()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with suppress(OSError):  # Linux: the limit does not bind a program that takes the dumps
        Path("/proc/self/coredump_filter").write_text("0", encoding="ascii")


def reveal(place: str, field: str) -> str:
    """Return the public URL of a place, or of what Prefect's Secret block holds for `secret:NAME`."""
    kind, _, name = place.partition(":")
    if kind != "secret":
        return public(place)
    from prefect.blocks.system import Secret

    try:
        return public(str(cast("Secret[str]", Secret.load(name)).get()))
    except ValueError:
        raise UserError(
            f"{field}: Prefect has no Secret block {name!r}. Create it: `prefect block create secret` shows where."
        ) from None


def prepare_environment() -> None:
    """Set defaults for the libraries' own variables before they are imported; variables that are set stay.

    Prefect's database lies in the store too, so that a store is complete and can be deleted whole. Nothing is sent
    to anybody, and no pickle is loaded.
    """
    settings = _read_settings()
    store, days = settings.root, settings.keep_days
    keep_private(settings.group)
    if settings.access_file:
        _learn_access(settings.access_file)
    defaults = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "http://127.0.0.1",  # of a temporary server: no page may read it
        "PREFECT_SERVER_LOGS_STREAM_OUT_ENABLED": "true",  # so that `deployment run --watch` shows a run's log
        "PREFECT_SERVER_LOGS_STREAM_PUBLISHING_ENABLED": "true",
        **upkeep(days),
        "DO_NOT_TRACK": "true",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # `tasks.registry.patience` tries again, and says so
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "403,500,504",  # of a proxy; Prefect's own are 429, 502 and 503
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # for `train.deterministic`; cuBLAS reads it once, when it starts
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # what a failed task raised is kept as text
        "PREFECT_LOGGING_EXTRA_LOGGERS": "grayline",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # `sample` logs outside of any flow
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # a busy machine needs over 20
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # one of a hundred small files says nothing
    }
    if is_local(store):
        # By default it lies in /tmp under the user's name, where another user may have put code.
        defaults["TORCHINDUCTOR_CACHE_DIR"] = Store(store).compiled().path
        home = Store(store).prefect().path
        defaults["PREFECT_HOME"] = home
        address = sqlite_address(f"{home}/prefect.db").replace("sqlite:", "sqlite+aiosqlite:")
        if "PREFECT_HOME" not in os.environ and not address.endswith(f"{home}/prefect.db"):
            # Prefect would take the path for an address as it is.
            defaults["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = address
    server = urlsplit(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if server.scheme in ("http", "https") and server.username:
        # MLflow repeats its server in errors and logs, but not these variables of its own.
        os.environ["MLFLOW_TRACKING_URI"] = urlunsplit(server._replace(netloc=server.netloc.rpartition("@")[2]))
        defaults["MLFLOW_TRACKING_USERNAME"] = unquote(server.username)
        defaults["MLFLOW_TRACKING_PASSWORD"] = unquote(server.password or "")
    for name, value in (defaults | thread_variables(os.environ)).items():
        os.environ.setdefault(name, value)
    if is_local(store):
        let_in(Path(Store(store).stack().path), os.environ)
        use_key(os.environ)
    # Prefect looks for its home when it is imported; `check_store` makes it when a command needs it.
    warnings.filterwarnings("ignore", message="Failed to create the Prefect home")
    # Pillow's warnings about a bad file are in the file's row.
    warnings.filterwarnings("ignore", module=r"(PIL|pydicom)\.")


def check_there(settings: Settings) -> None:
    """Raise UserError, and make nothing, unless there are a store and a registry to look into."""
    database = settings.mlflow_tracking_uri or settings.tracking_uri
    file = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+).*", database)
    if file and not UPath(file[1]).exists() and not UPath(unquote(file[1])).exists():
        raise UserError(
            f"GRAYLINE_STORE: nothing is registered yet in {settings.root}: there is no {file[1]}. "
            "Run `grayline retrain --dataset FILE.yaml` first, or set GRAYLINE_STORE to the store that has it."
        )


def check_store(root: UPath) -> None:
    """Make the store. Raises UserError unless files can be written under it."""
    group = Settings().group
    keep_private(group)  # a flow of another worker than ours begins here
    try:
        root.mkdir(parents=True, exist_ok=True)
        if is_local(root):
            Store(root).prefect().mkdir(exist_ok=True)  # Prefect does not make its home's parents
            private = [Path(place.path) for place in (Store(root).prefect(), Store(root).stack())]
            close_store(Path(root.path), private, group)
        probe = root / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
        if not (root / STORE_MARK).exists():
            write_text(root / STORE_MARK, "{}\n")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"GRAYLINE_STORE: cannot write under {root} ({reason}). "
            "Make the folder writable, or set GRAYLINE_STORE to one that is."
        ) from None
