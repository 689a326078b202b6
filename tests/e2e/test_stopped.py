"""A night that is stopped by a signal leaves nothing running: no process, and no run on any server."""

import os
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tasks.store import STATE
from tests.conftest import write_folder
from tests.e2e.test_commands import BIN

pytestmark = pytest.mark.e2e

NIGHT = """
name: digits
source: source
image: {size: 32}
split: {near_duplicates: false}
model: {arch: resnet18, width: 32}
train: {epochs: 400, batch_size: 32}
"""


def rows(database: Path, question: str) -> list[str]:
    return [row[0] for row in sqlite3.connect(database).execute(question)]


@pytest.mark.parametrize(
    ("number", "status", "whom"),
    [(signal.SIGINT, 130, "group"), (signal.SIGTERM, 143, "all, twice"), (signal.SIGKILL, -9, "process")],
)
def test_a_night_that_is_stopped(
    number: int, status: int, whom: str, tmp_path: Path, digits: tuple[np.ndarray, list[str]]
) -> None:
    write_folder(tmp_path / "source", digits, range(10), 120)
    (tmp_path / "digits.yaml").write_text(NIGHT)
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("GRAYLINE", "PREFECT", "MLFLOW"))
    }
    night = subprocess.Popen(
        [BIN / "grayline", "retrain", "--dataset", "digits.yaml"],
        cwd=tmp_path, env=clean, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    store = tmp_path / "data/store"
    while not list(store.glob(f"runs/digits/*/{STATE}")):  # the first epoch's checkpoint
        assert night.poll() is None
        time.sleep(0.1)
    family = [psutil.Process(night.pid), *psutil.Process(night.pid).children(recursive=True)]
    assert any("temporary.py" in " ".join(process.cmdline()) for process in family)
    began = time.monotonic()
    for _ in range(2 if "twice" in whom else 1):
        if whom == "group":
            os.killpg(night.pid, number)
        else:
            for process in family if whom.startswith("all") else family[:1]:
                process.send_signal(number)
        time.sleep(0.1)
    said = night.communicate()[1]
    assert night.returncode == status
    if status > 0:
        assert time.monotonic() - began < 10  # 5 on quiet cores
        said = said[said.index("grayline: ") :]
        assert len(said.splitlines()) == 1
        assert "goes on from here" in said
        assert rows(store / "mlflow.db", "select status from runs") == ["FAILED"]
    assert not psutil.wait_procs(family, timeout=10)[1]
    # Of a killed process, too: its temporary server says so.
    assert set(rows(store / "prefect/prefect.db", "select state_type from flow_run")) == {"CRASHED"}
    assert not {"RUNNING", "PENDING"} & set(rows(store / "prefect/prefect.db", "select state_type from task_run"))
