"""Take the pictures of the README and the site from pages of this code, in headless Chromium.

    apt-get install chromium          # Debian's package
    .venv/bin/python -m docs.screenshots

The tutorial runs in an empty folder: it makes a version, a batch, a report and a gallery. Then a local stack starts
there, on free ports, and shows the night and the version. Chromium asks 127.0.0.1 alone.
"""

import base64
import json
import os
import shutil
import socket
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from docs.stamps import IMAGES, stamp
from docs.terminal import draw, record, write
from tests.tutorial import start

SIZE = {"width": 1400, "height": 1000}
NAME = "parts"  # the tutorial's data set


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(draw(record(folder)))
        run("grayline review scored --budget 12 --to monday", folder)
        ports = {name: free_port() for name in ("GRAYLINE_PREFECT_PORT", "GRAYLINE_MLFLOW_PORT")}
        stack = " ".join(f"{name}={port}" for name, port in ports.items())
        try:
            run(f"{stack} grayline up", folder)
            prefect, mlflow = (f"http://127.0.0.1:{port}" for port in ports.values())
            password = (folder / "data/store/stack/password").read_text(encoding="utf-8")
            shoot_all(folder, prefect, mlflow, password)
        finally:
            run(f"{stack} grayline down", folder)


def run(command: str, folder: Path) -> None:
    print(f"$ {command}", flush=True)
    process = start(command, folder)
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(output)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def shoot_all(folder: Path, prefect: str, mlflow: str, password: str) -> None:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        known = {"username": "grayline", "password": password, "origin": mlflow}
        context = browser.new_context(viewport=SIZE, http_credentials=known)
        word = json.dumps(f"grayline:{password}")
        context.add_init_script(
            f"if (location.origin === {json.dumps(prefect)}) localStorage.setItem('prefect-password', btoa({word}))"
        )
        page = context.new_page()
        shoot(page, (folder / "report.html").as_uri(), "report.png", 1)
        shoot(page, (folder / "scored.html").as_uri(), "gallery.png", 1)
        shoot(page, (folder / "monday" / "queue.html").as_uri(), "review.png", 1)
        shoot(page, f"{prefect}/runs/flow-run/{newest_run(prefect, f'grayline:{password}')}", "prefect-run.png", 15)
        shoot(page, f"{mlflow}/#/models/{NAME}/versions/1", "mlflow-model.png", 15)
        browser.close()


def newest_run(prefect: str, password: str) -> str:
    query = {
        "sort": "START_TIME_DESC",
        "limit": 1,
        "flows": {"name": {"any_": ["nightly-retrain"]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
    }
    head = {
        "Content-Type": "application/json",
        "Authorization": f"Basic {base64.b64encode(password.encode()).decode()}",
    }
    request = urllib.request.Request(f"{prefect}/api/flow_runs/filter", json.dumps(query).encode(), head)
    with urllib.request.urlopen(request, timeout=30) as answer:
        (found,) = json.load(answer)
    return str(found["id"])


def shoot(page: Any, url: str, name: str, seconds: int) -> None:
    page.goto(url)
    page.wait_for_timeout(1000 * seconds)
    page.screenshot(path=IMAGES / name)
    stamp(name)
    print(IMAGES / name, flush=True)


if __name__ == "__main__":
    os.umask(0o022)
    main()
