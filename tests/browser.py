"""A headless Chromium for pages that people read, and what is asked of every one of them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# Text whose colour is nearer to what is behind it than 4.5:1 (WCAG 2.2, 1.4.3), with its ratio.
PALE_TEXT = """() => {
  const parts = (text) => {
    const c = text.match(/[\\d.]+/g).map(Number);
    return [...c.slice(0, 3), c.length > 3 ? c[3] : 1];
  };
  const over = (top, under) => top.slice(0, 3).map((c, k) => c * top[3] + under[k] * (1 - top[3]));
  const behind = (node) => {
    const stack = [];
    for (let up = node; up; up = up.parentElement) stack.push(parts(getComputedStyle(up).backgroundColor));
    return stack.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || node.closest("title, .unseen") || !node.getClientRects().length) continue;
    const style = getComputedStyle(node), svg = node.closest("svg");
    const ground = behind(svg ? svg.parentElement : node);
    const ink = over(parts(svg ? style.fill : style.color), ground);
    const [low, high] = [light(ink), light(ground)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) found.push([node.tagName, node.className.toString(), node.textContent.trim().slice(0, 30), ratio]);
  }
  return found;
}"""

# What sticks out to the right of the window, unless it lies in something that scrolls by itself.
TOO_WIDE = """() => {
  const wide = document.documentElement.clientWidth;
  const found = [...document.querySelectorAll("body *")].filter((node) =>
    !node.closest(".scroll, .unseen, svg") && node.getBoundingClientRect().right > wide + 0.5);
  const scrolls = document.documentElement.scrollWidth > wide ? ["the page scrolls sideways"] : [];
  const named = (node) => `${node.tagName}.${node.className}: ${node.textContent.trim().slice(0, 40)}`;
  return scrolls.concat(found.slice(0, 5).map(named));
}"""

# What a screen reader needs: a language, headings in order, names for pictures, scopes, links that lead somewhere.
UNREADABLE = """() => {
  const found = [], all = (query) => [...document.querySelectorAll(query)];
  if (!document.documentElement.lang) found.push("no lang");
  if (!document.title) found.push("no title");
  if (all("h1").length !== 1) found.push(`${all("h1").length} h1`);
  let level = 1;
  for (const heading of all("h1, h2, h3, h4")) {
    const now = Number(heading.tagName[1]);
    if (now > level + 1) found.push(`after h${level}: ${heading.outerHTML.slice(0, 60)}`);
    level = now;
  }
  for (const image of all("img")) {
    if (!image.alt) found.push(`no alt: ${image.src.slice(0, 40)}`);
    if (!image.complete || !image.naturalWidth) found.push(`missing: ${image.alt}`);
  }
  for (const drawing of all("svg:not([aria-hidden='true'])")) {
    if (drawing.getAttribute("role") !== "img" || !drawing.getAttribute("aria-label"))
      found.push(`unnamed drawing: ${drawing.outerHTML.slice(0, 60)}`);
  }
  for (const head of all("th")) if (!head.scope) found.push(`no scope: ${head.outerHTML.slice(0, 60)}`);
  for (const table of all("main table"))
    if (!table.caption && !table.closest(".prose")) found.push("a table without a caption");
  for (const link of all("a[href^='#']"))
    if (!document.getElementById(link.hash.slice(1))) found.push(`leads nowhere: ${link.hash}`);
  const ids = all("[id]").map((node) => node.id);
  if (new Set(ids).size !== ids.length) found.push("an id twice");
  for (const region of all("section"))
    if (!document.getElementById(region.getAttribute("aria-labelledby"))) found.push("unnamed section");
  return found;
}"""


@contextmanager
def chromium(*arguments: str) -> Iterator[Any]:
    """A browser of playwright's; skips the test, with the reason, where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", *arguments])
        yield browser
        browser.close()


def opened(browser: Any, file: Path, width: int = 1280, scheme: str = "light") -> tuple[Any, list[str]]:
    """The file in a page of its own. The list gets whatever the browser complains of or asks the network for."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on(
        "request",
        lambda request: said.append(request.url[:80]) if not request.url.startswith(("file:", "data:")) else 0,
    )
    page.goto(file.as_uri())
    return page, said
