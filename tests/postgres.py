"""A PostgreSQL of one's own. Only a socket in the new cluster's folder leads to it, and it is removed afterwards."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

PASSWORD = "ge#heim@1/2"
USER = "postgres"  # it refuses to run as root


def programs() -> Path | None:
    """The folder of initdb and pg_ctl; Debian's are not on the PATH."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return places[-1] if places else None


def restart(url: str) -> None:
    """Restart the server of a cluster, as an upgrade does: connections end, and new ones are refused for a while."""
    folder, bin_folder = Path(url.rpartition("host=")[2]), programs()
    assert bin_folder
    as_user: dict[str, Any] = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
    for action in (["stop", "-m", "fast"], ["start", "-o", _options(folder)]):
        with (folder / "log").open("a") as log:
            command = [bin_folder / "pg_ctl", "-D", folder / "data", "-w", *action]
            subprocess.run(command, check=True, stdout=log, stderr=log, cwd=folder, **as_user)


def _options(folder: Path) -> str:
    return f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c max_connections=300"


@contextmanager
def cluster() -> Iterator[str]:
    """The URL of a database whose user has the password PASSWORD."""
    bin_folder = programs()
    assert bin_folder
    as_user: dict[str, Any] = {"user": USER, "group": USER, "extra_groups": []} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path has 107 bytes at most
    secret = folder / "password"
    secret.write_text(PASSWORD)
    if as_user:
        shutil.chown(folder, USER)
        shutil.chown(secret, USER)

    def run(*command: str | Path) -> None:
        with (folder / "log").open("a") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, cwd=folder, **as_user)

    data = folder / "data"
    control = bin_folder / "pg_ctl"
    initdb = bin_folder / "initdb"
    run(initdb, "-D", data, "-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync", "-E", "UTF8")
    try:
        run(control, "-D", data, "-w", "-o", _options(folder), "start")
        yield f"postgresql+psycopg://{USER}:{quote(PASSWORD, safe='')}@/postgres?host={folder}"
    finally:
        stop = [control, "-D", data, "-m", "immediate", "stop"]
        subprocess.run(stop, check=False, capture_output=True, cwd=folder, **as_user)
        shutil.rmtree(folder, ignore_errors=True)
