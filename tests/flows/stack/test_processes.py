"""Processes of the stack are found by their notes, and without them."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.stack.processes import running, start, stop

HERE = str(Path(__file__).parents[3])


async def app(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that answers nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Path]:
    command = ["uvicorn", "--port", "0", "--app-dir", HERE, "tests.flows.stack.test_processes:app"]
    start(tmp_path, "server", command, {"PATH": "/usr/bin", "PYTHONPATH": HERE})
    time.sleep(0.2)
    yield tmp_path
    stop(tmp_path, "server")


@pytest.mark.parametrize("note", [b"", b'{"pid": 1', b"[]", b'{"pid": "x", "began": 0}', b"\xff", None])
def test_a_torn_note_hides_no_process(server: Path, note: bytes | None) -> None:
    process = running(server, "server")
    assert process
    if note is None:
        (server / "server.json").unlink()
    else:
        (server / "server.json").write_bytes(note)
    assert running(server, "server") == process
    assert running(server, "another") is None
    start(server, "server", ["uvicorn", "none:app"], {})  # runs already
    stop(server, "server")
    assert not process.is_running()
    assert running(server, "server") is None


def test_a_clock_that_is_set_hides_no_process(server: Path) -> None:
    note = json.loads((server / "server.json").read_text())
    (server / "server.json").write_text(json.dumps(note | {"began": note["began"] - 3600}))
    assert running(server, "server")
    (server / "server.json").write_text(json.dumps(note | {"pid": os.getpid()}))  # another has got the pid
    assert running(server, "server") is None
    (server / "server.json").write_text(json.dumps(note))
