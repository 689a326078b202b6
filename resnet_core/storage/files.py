"""Files that appear whole or not at all, in any fsspec store: written beside and renamed, or put at once.

A copy of a store may be cut off, and a disk may lose a sector: `whole` and `read_json` name such a file.
"""

import base64
import errno
import json
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from upath import UPath

from resnet_core.credentials import opened
from resnet_core.errors import JobError, UserError
from resnet_core.policy import check_protocol
from resnet_core.storage import locations


class DamagedFileError(JobError):
    """A file is there, but it is not what was written. Derived files are then made again.

    remedy: of a file that nothing else can make: what is lost, and which command goes on.
    """

    def __init__(self, path: UPath | Path, why: str, remedy: str = "") -> None:
        super().__init__(f"{path} is damaged ({why}){remedy and '. '}{remedy}")
        self.path, self.why, self.remedy = path, why, remedy

    def __reduce__(self) -> tuple[Any, ...]:
        return DamagedFileError, (self.path, self.why, self.remedy)


class DiskFullError(JobError):
    """The disk is full. Whatever was written before stays, and the same command goes on from there."""


def says_full(error: BaseException | None) -> bool:
    """Return whether an error, or one behind it, says that a disk is full, in words of any library."""
    while error is not None:
        text = str(error)
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(sign in text for sign in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


_FULL = (os.strerror(errno.ENOSPC), "os error 28", "Errno 28", "disk is full")


def disk_full(place: UPath | Path) -> DiskFullError:
    """Return the error for a full disk: which, and the remedy."""
    return DiskFullError(
        f"{place}: {os.strerror(errno.ENOSPC)}. Make room (`grayline prune` lists what nothing needs), or set "
        "GRAYLINE_STORE to a larger disk, and run the same command again: it goes on from here."
    )


# The disk refuses: it is broken, read-only or gone, or this user or process may not.
_REFUSALS = (
    errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS, errno.ESTALE, errno.ENOTCONN, errno.EMFILE, errno.ENFILE,
)  # fmt: skip
_OF_SQLITE = ("attempt to write a readonly database", "disk I/O error", "unable to open database file")


def refused_by_disk(error: BaseException | None) -> JobError | None:
    """Return the error of a disk that refuses a file; None if it is another one. Errors behind it count."""
    while error is not None:
        found = next((text for text in _OF_SQLITE if text in str(error)), "")
        if isinstance(error, OSError) and error.errno in _REFUSALS:
            found = f"{error.filename}: {error.strerror}" if error.filename else str(error).splitlines()[0]
        if found:
            return JobError(
                f"{found}. Finished work stays. Mend the disk or the rights, then run the same command again."
            )
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def _room(path: UPath) -> Iterator[None]:
    """Raise DiskFullError for whatever the writers of this file raise on a full disk."""
    try:
        yield
    except JobError:
        raise
    except Exception as error:
        if says_full(error):
            raise disk_full(path) from None
        raise


@contextmanager
def whole(path: UPath | Path, remedy: str = "") -> Iterator[None]:
    """Raise DamagedFileError for what readers of Parquet and JSON raise where the bytes are others.

    Errors of the store itself stay as they are: they have a number or, such as a missing file, a class of their own.
    """
    try:
        yield
    except (OSError, ValueError, EOFError, NotImplementedError) as error:
        if isinstance(error, OSError) and (error.errno is not None or type(error) is not OSError):
            raise
        raise DamagedFileError(path, (str(error).strip() or type(error).__name__).splitlines()[0], remedy) from None


def read_json(path: UPath | Path, remedy: str = "") -> Any:
    """Return the content of a JSON file. Raises DamagedFileError."""
    with whole(path, remedy):
        return json.loads(path.read_text(encoding="utf-8"))


def is_local(path: UPath) -> bool:
    """Return whether a path is on this machine's file system."""
    return path.protocol in ("", "file", "local")


def _options(place: str) -> dict[str, Any]:
    """Return the options that open a URL which has a user and a password."""
    url = urlsplit(opened(place))
    if url.scheme in ("http", "https"):
        user = base64.b64encode(f"{unquote(url.username or '')}:{unquote(url.password or '')}".encode()).decode()
        return {"client_kwargs": {"headers": {"Authorization": f"Basic {user}"}}} if url.username else {}
    import fsspec

    found: dict[str, Any] = fsspec.get_filesystem_class(url.scheme)._get_kwargs_from_urls(opened(place))
    return found


def to_path(place: str) -> UPath:
    """Return the absolute path that a user names. Raises OutOfReachError for a protocol that is not allowed.

    A URL is shown without its secrets; they are options of its file system. Raises UserError for an empty text, which
    would be the current folder.
    """
    if not place.strip():
        raise UserError("an empty text is no path: name a file, a folder or a URL.")
    check_protocol(place)
    return store_path(place)


def store_path(place: str) -> UPath:
    """Return the same for the store, which may lie anywhere."""
    place = locations.absolute(place)
    return UPath(place) if opened(place) == place else UPath(place, **_options(place))


# Nothing of ours belongs there, whatever the user's rights are.
_SYSTEM = (
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys", "/usr",
    "/var/lib/dpkg", "/var/log", "/var/mail", "/var/spool",
)  # fmt: skip
_MOUNTED = ("/run/media", "/run/user")
_PRIVATE = (".aws", ".azure", ".config", ".gnupg", ".kube", ".local/bin", ".ssh")


def to_output(place: str, field: str) -> UPath:
    """Return the absolute path of a place to write to. Raises UserError, about `field`, for one of the system.

    Folders of keys and settings in the home belong to it, and files there that other programs read (`~/.bashrc`).
    """
    path = to_path(place)
    if path.protocol in ("http", "https"):
        raise UserError(f"{field}: {place}: nothing can be written there. Name a folder or a bucket.")
    if is_local(path):
        real, home = Path(path.path).resolve(), Path.home().resolve()
        system = any(map(real.is_relative_to, _SYSTEM)) and not any(map(real.is_relative_to, _MOUNTED))
        hidden = real.parent == home and real.name.startswith(".")
        if system or hidden or real in (home, Path("/")) or any(real.is_relative_to(home / name) for name in _PRIVATE):
            raise UserError(f"{field}: {place} belongs to the system or to other programs. Choose another place.")
    return path


@contextmanager
def write_whole(path: UPath) -> Iterator[Path]:
    """Yield a local file to write to: it becomes `path` when the block succeeds, and is removed otherwise.

    On a local disk it is flushed and renamed, and then its name is flushed. Elsewhere the final put is the commit.
    """
    if is_local(path):
        final = Path(path.path)
        _make_folder(final.parent)
        draft = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
        try:
            with _room(path):
                yield draft
                with open(draft, "rb+") as file:
                    os.fsync(file.fileno())
                _open_to_group(draft)
                draft.replace(final)
                _flush_names(final.parent)
        finally:
            draft.unlink(missing_ok=True)
    else:
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder) / path.name
            yield draft
            path.parent.mkdir(parents=True, exist_ok=True)
            path.fs.put_file(str(draft), path.path)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, with their names on the disk."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        _flush_names(each.parent)


def _flush_names(folder: Path) -> None:
    """Put the names of a folder on the disk. Without that, a power cut may bring an old name back."""
    if os.name != "posix":
        return  # no folder can be opened there
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):  # shares of a NAS that know no such thing
            raise
    finally:
        os.close(opened)


def flush(folder: Path) -> None:
    """Put a local folder that another library has written on the disk: its files and their names."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        if path.is_dir():
            _flush_names(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _open_to_group(file: Path) -> None:
    """Give the group its usual rights to a file that a library has made private."""
    if file.is_file() and not file.stat().st_mode & 0o070 and file.parent.stat().st_mode & 0o070:
        probe = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
        probe.touch()
        file.chmod(stat.S_IMODE(probe.stat().st_mode))
        probe.unlink()


@contextmanager
def write_folder(path: UPath) -> Iterator[Path]:
    """Do the same for a folder, which replaces an existing one once it is whole."""
    with tempfile.TemporaryDirectory() as scratch, _room(path):
        made = Path(scratch) / "made"  # unlike the temporary folder, it has the mode of all folders
        made.mkdir()
        yield made
        if not is_local(path):
            if path.exists():
                path.fs.rm(path.path, recursive=True)
            path.fs.put(f"{made}/", path.path, recursive=True)
            return
        draft, old = (Path(path.path).with_name(f".{path.name}.{uuid.uuid4().hex[:8]}") for _ in range(2))
        try:
            for file in made.rglob("*"):
                _open_to_group(file)
            _make_folder(draft.parent)
            shutil.copytree(made, draft)
            flush(draft)
            if path.exists():
                Path(path.path).replace(old)
            draft.replace(path.path)
            _flush_names(draft.parent)
        finally:
            for left in (draft, old):
                shutil.rmtree(left, ignore_errors=True)


def remove_drafts(folder: UPath, only_count: bool = False) -> int:
    """Remove, or only count, what killed processes have left half-written below a local folder. Returns its number.

    Nobody may be writing there.
    """
    if not (is_local(folder) and folder.exists()):
        return 0
    drafts = [path for path in Path(folder.path).rglob(".*") if _DRAFT.fullmatch(path.name)]
    for path in () if only_count else drafts:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(drafts)


_DRAFT = re.compile(r"\..+\.[0-9a-f]{8}")


@contextmanager
def as_local(path: UPath) -> Iterator[Path]:
    """Yield a local file or folder with the content of `path`, for libraries that need a name on disk."""
    if is_local(path):
        yield Path(path.path)
    else:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / path.name
            path.fs.get(path.path, str(copy), recursive=True)
            yield copy


def write_text(path: UPath, text: str) -> None:
    """Write text as UTF-8, whole or not at all."""
    with write_whole(path) as draft:
        draft.write_text(text, encoding="utf-8")


def link(source: UPath, new: UPath) -> None:
    """Make `new` the same file as `source`: a hard link where the disk has them, else a copy."""
    with write_whole(new) as draft:
        if is_local(source):
            try:
                os.link(source.path, draft)
            except OSError:  # the disk has no links
                shutil.copyfile(source.path, draft)
        else:
            source.fs.get_file(source.path, str(draft))
