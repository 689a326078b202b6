"""Vacuum: forget old runs in Prefect's own database, by Prefect's own rules, where no server does it.

A server does it every hour; `tasks.settings` gives it the same limits. `python -m flows.stack.vacuum` is the process.
"""

import asyncio
import os
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

from resnet_core.storage.files import is_local
from tasks.settings import Settings, prepare_environment

_LONGEST = 900  # seconds
_LARGEST_LOG, _KEPT_OF_LOG = 10 * 2**20, 2**20  # bytes


def vacuum() -> bool:
    """Forget old runs and give the space back, if the database is a file and no server uses it."""
    home = os.environ.get("PREFECT_HOME")
    if os.environ.get("PREFECT_API_URL") or home is None or not (Path(home) / "prefect.db").exists():
        return False
    command = [sys.executable, "-m", "flows.stack.vacuum"]
    subprocess.run(command, check=True, capture_output=True, timeout=_LONGEST)
    return True


def cut_logs() -> int:
    """Cut the logs of the local stack to their ends. Returns the bytes that this frees."""
    root = Settings().root
    freed = 0
    for log in Path(root.path, "stack").glob("*.log") if is_local(root) else ():
        if (size := log.stat().st_size) > _LARGEST_LOG:
            with log.open("rb+") as file:  # its process appends to it: the file stays the same
                file.seek(-_KEPT_OF_LOG, os.SEEK_END)
                end = file.read()
                file.seek(0)
                file.write(end)
                file.truncate()
            freed += size - len(end)
    return freed


async def _vacuum() -> None:
    from prefect.server.database import provide_database_interface
    from prefect.server.services import db_vacuum

    db = provide_database_interface()
    await db_vacuum.vacuum_old_flow_runs(db=db)
    await db_vacuum.vacuum_events_with_retention_overrides(db=db)
    await db_vacuum.vacuum_old_events(db=db)
    await (await db.engine()).dispose()  # its threads would keep the process


def main() -> None:
    """Run the vacuum of this process's settings."""
    prepare_environment()
    asyncio.run(_vacuum())
    database = sqlite3.connect(Path(os.environ["PREFECT_HOME"]) / "prefect.db", timeout=30)
    with closing(database), suppress(sqlite3.OperationalError):  # another process reads it: next time
        database.execute("vacuum")


if __name__ == "__main__":
    main()
