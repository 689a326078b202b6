"""The machine's settings: with `tasks.access.environment`, the only place that looks into the environment."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from upath import UPath

from resnet_core.credentials import public
from resnet_core.errors import UserError
from resnet_core.images.limits import Limits
from resnet_core.policy import Policy, decide_by
from resnet_core.storage.files import is_local, store_path
from tasks.access.environment import learn_access, set_defaults
from tasks.access.migrations import bring_up_to_date
from tasks.access.modes import Group, close_store, keep_confidential, keep_private
from tasks.access.passwords import let_in
from tasks.access.settings_file import read_settings_file, settings_file
from tasks.store import Store, check_format, note_in_mark, read_mark
from tasks.validation import invalid, public_texts

if TYPE_CHECKING:
    from resnet_core.shards.encryption import Keys


# Secret URLs that others open: they keep their passwords.
_WHOLE = ("alerts", "mlflow_backend_store_uri", "prefect_server_database_connection_url")


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
    resident_bytes: int = Field(2 * 1024**3, description="Training pixels up to this size stay in the device's memory.")
    night_hours: float | None = Field(None, gt=0, description="A longer night ends at its next checkpoint.")
    keep_days: int = Field(30, ge=1, description="`prune` leaves what is younger; so does Prefect with its runs.")
    keep_versions: int = Field(10, ge=1, description="`prune` leaves so many of a model's newest versions, at any age.")
    prune_nightly: bool = Field(False, description="Whether every night ends with `prune --delete`.")
    alerts: SecretStr | None = Field(
        None, description="Where alerts go: https URLs of webhooks and URLs of Apprise's, with blanks between them."
    )
    alerts_file: str | None = Field(None, description="A file of such URLs, a line each.")
    low_bytes: int = Field(
        2 * 1024**3, description="Less free space on the store's disk after a night is an alert; 0 for none."
    )
    stale_days: int = Field(7, ge=1, description="A champion that no night has confirmed for so long is an alert.")
    metrics: str | None = Field(
        None, description="Folder for text files of Prometheus, such as that of node_exporter's textfile collector."
    )
    logs: Literal["text", "json"] = Field("text", description="Form of log lines on the terminal and of the stack.")
    prefect_port: int = Field(4200, description="Port of the local stack's Prefect server.")
    mlflow_port: int = Field(5000, description="Port of the local stack's MLflow server.")
    prefect_public: str | None = Field(
        None, description="`up --public`: the https address by which a TLS proxy in front serves Prefect."
    )
    mlflow_public: str | None = Field(
        None, description="`up --public`: the https address by which a TLS proxy in front serves MLflow."
    )
    mlflow_tracking_uri: str | None = Field(None, validation_alias="MLFLOW_TRACKING_URI")
    mlflow_backend_store_uri: SecretStr | None = Field(None, validation_alias="MLFLOW_BACKEND_STORE_URI")
    mlflow_artifacts_destination: str | None = Field(None, validation_alias="MLFLOW_ARTIFACTS_DESTINATION")
    prefect_server_database_connection_url: SecretStr | None = Field(
        None, validation_alias="PREFECT_SERVER_DATABASE_CONNECTION_URL"
    )
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
        if not isinstance(content, dict):
            return content
        return {key: value if key.lower() in _WHOLE else public_texts(value) for key, value in content.items()}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the settings file behind the environment."""
        content, _ = read_settings_file(variables(), _secret())
        keys = {name: str(cls.model_fields[name].validation_alias or name) for name in content}
        file = InitSettingsSource(settings_cls, {keys[name]: value for name, value in content.items()})
        return init_settings, env_settings, file

    @property
    def root(self) -> UPath:
        """Return the store's absolute path."""
        return store_path(self.store)

    @property
    def stack(self) -> Path:
        """Return the folder of the local servers' notes: in the store, or the user's own beside a store elsewhere."""
        if is_local(self.root):
            return Path(Store(self.root).stack().path)
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "grayline"

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


def variables() -> dict[str, str]:
    """Return the environment variable of each setting."""
    prefix = str(Settings.model_config["env_prefix"])
    return {
        name: str(field.validation_alias or f"{prefix}{name}").upper() for name, field in Settings.model_fields.items()
    }


def _secret() -> set[str]:
    return {name for name, field in Settings.model_fields.items() if SecretStr in get_args(field.annotation)}


def _use_settings_file() -> None:
    """Set the variables of the settings file that are not set: libraries and other processes read them, too."""
    for name, value in read_settings_file(variables(), _secret())[1].items():
        os.environ.setdefault(name, value)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


@lru_cache(maxsize=1)
def _policy_of(_: tuple[str | None, ...]) -> Policy:
    return read_settings().policy


def _decide() -> Policy:
    """Return the policy of the environment as it is now, which is seldom read anew."""
    return _policy_of(tuple(map(os.environ.get, _POLICY)))


_POLICY = [f"GRAYLINE_{name}" for name in ("STORE", "ALLOWED_PROTOCOLS", "PRIVATE_HOSTS", "MANIFEST_ROOTS")]
_POLICY += [
    f"GRAYLINE_MAX_{name}" for name in ("UNPACKED_BYTES", "RATIO", "BYTES", "MEMBERS", "DEPTH", "UNPACK_SECONDS")
]
decide_by(_decide)  # in every process that has settings at all


def allow_typed(place: str) -> None:
    """Allow a URL that a person types on the command line, here and in processes to come. Settings are of input."""
    url, settings = urlsplit(place), read_settings()
    if url.scheme in ("http", "https") and url.hostname:
        os.environ["GRAYLINE_ALLOWED_PROTOCOLS"] = f"{settings.allowed_protocols}, {url.scheme}"
        os.environ["GRAYLINE_PRIVATE_HOSTS"] = f"{settings.private_hosts}, {url.hostname}".lstrip(", ")


def prepare_environment() -> None:
    """Set this process's variables, modes and credentials, before libraries look at them."""
    _use_settings_file()
    settings = read_settings()
    keep_private(settings.group)
    if settings.access_file:
        learn_access(settings.access_file)
    set_defaults(settings.root, settings.keep_days, settings.logs)
    let_in(settings.stack, os.environ)


def read_settings() -> Settings:
    """Read the settings. Raises UserError for an invalid variable."""
    try:
        return Settings()
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
        name = variables().get(field, field).upper()
        if name not in os.environ and (file := settings_file()):
            name = f"{file}: {field.lower()}"
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


def check_there(settings: Settings) -> None:
    """Raise UserError, and make nothing, unless there are a store and a registry to look into."""
    check_format(settings.root)
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
        check_format(root)
        root.mkdir(parents=True, exist_ok=True)
        if is_local(root):
            Store(root).prefect().mkdir(exist_ok=True)  # Prefect does not make its home's parents
            private = [Path(place.path) for place in (Store(root).prefect(), Store(root).stack())]
            close_store(Path(root.path), private, group)
        probe = root / ".probe"
        probe.write_bytes(b"")
        with suppress(FileNotFoundError):  # another process that begins now has removed it
            probe.unlink()
        if "format" not in read_mark(root):
            note_in_mark(root, {})
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"GRAYLINE_STORE: cannot write under {root} ({reason}). "
            "Make the folder writable, or set GRAYLINE_STORE to one that is."
        ) from None
    if is_local(root):
        bring_up_to_date(root)
