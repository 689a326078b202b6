"""The documentation site: it builds with every link checked, and a browser opens each page without a complaint."""

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.stamps import outdated
from tests.browser import chromium

HOME = Path(__file__).parents[1]
SITE = HOME / "build" / "site"


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """Build the site, and serve it on this machine."""
    pytest.importorskip("material", reason="mkdocs-material is not installed: make docs")
    build = [sys.executable, "-W", "ignore", "-m", "mkdocs", "--quiet", "build", "--strict"]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=HOME, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    handler = functools.partial(_Silent, directory=str(SITE))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


def test_no_picture_is_older_than_what_it_shows() -> None:
    assert outdated() == [], "run `python -m docs.screenshots`, which makes all of them"


@pytest.mark.docs
def test_every_page_opens_without_a_complaint_and_asks_no_other_server(site: str) -> None:
    names = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html") if path.name != "404.html")
    assert len(names) > 40
    said: list[str] = []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("console", lambda message: said.append(f"{page.url}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"{page.url}: {error}"))
        page.on("request", lambda asked: said.append(asked.url) if not asked.url.startswith((site, "data:")) else 0)
        for name in names:
            page.goto(f"{site}/{name}")
            assert page.locator("h1").count() == 1, name
            assert page.evaluate("[...document.images].filter((i) => i.complete && !i.naturalWidth).length") == 0, name
        page.wait_for_load_state("networkidle")  # the search listens once its index is there
        page.keyboard.press("/")
        page.get_by_placeholder("Search").press_sequentially("temperature")
        # Each letter is a search of its own: what stands there first answers "t", not the word.
        found = page.locator(".md-search-result__link:visible", has_text=re.compile("calibration", re.IGNORECASE))
        found.first.wait_for(timeout=60_000)
    assert said == []
