"""The temporary Prefect server of a command asks for a password, and is not given encryption keys."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.e2e

_FLOW = """
import os, sys, urllib.request, urllib.error
from tasks.settings import prepare_environment
from tasks.settings import check_store, Settings
prepare_environment()
check_store(Settings().root)
from flows.stack.temporary import use_own_server
use_own_server()
use_own_server()  # a second command of the process
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.variables import Variable

@flow
def ask():
    Variable.set("x", 1)
    with get_client(sync_client=True) as client:
        return str(client.api_url)

print(ask(), flush=True)
input()
"""


def test_it_asks_for_a_password_and_has_no_keys(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env |= {"GRAYLINE_STORE": str(tmp_path / "store"), "GRAYLINE_KEYS": "2026 = secret-key"}
    process = subprocess.Popen(
        [sys.executable, "-c", _FLOW], env=env, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    assert process.stdout
    try:
        url = process.stdout.readline().strip()
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        assert not [child for child in children if "GRAYLINE_KEYS" in child.environ()]
        for path, body in (("variables/filter", {}), ("block_documents/filter", {"include_secrets": True})):
            assert status(f"{url}{path}", body) == 401
        assert status(f"{url}variables/filter", {}, Origin="http://evil.example") == 401
    finally:
        process.stdin.close()
        process.wait(60)


def status(url: str, body: object, **head: str) -> int:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json", **head})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
