"""Draw the tutorial as a terminal that moves: `python -m docs.terminal` runs it and writes docs/images/ten-minutes.svg.

Its commands run in an empty folder; the lines appear in the order and at the pace of that run. Waits are shortened, and
the seconds that a command took stand behind it. CSS moves the picture, so that it also moves as an image of a page.
"""

import tempfile
import time
from html import escape
from pathlib import Path

from docs.stamps import IMAGES, stamp
from tests.tutorial import start, steps

COLUMNS, ROWS = 112, 26
WIDE, HIGH = 7.8, 18  # px of a character
LONGEST, TYPING, REST = 1.2, 1.5, 6.0  # seconds: between lines, before a command's output, at the end
STYLE = (
    "text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:#d6d9dd;white-space:pre}"
    ".p{fill:#7ee0a1;font-weight:600}.t{fill:#8b929a}.g{fill:#7ee0a1}.r{fill:#ff9d8a}"
    "@media(prefers-reduced-motion:reduce){*{animation:none!important}}"
)


def record(folder: Path) -> list[tuple[float, str, str]]:
    """Run the tutorial; return the second, the class and the text of every line."""
    shown: list[tuple[float, str, str]] = []
    now = 0.5
    for step in steps():
        place, began, last = len(shown), time.monotonic(), time.monotonic()
        shown.append((now, "p", f"$ {step.command}"))
        print(shown[-1][2], flush=True)
        now += TYPING
        process = start(step.command, folder)
        assert process.stdout
        for line in process.stdout:
            wait, last = time.monotonic() - last, time.monotonic()
            now += min(wait, LONGEST)
            shown.append((now, _kind(line), line.rstrip()))
        if process.wait():
            raise SystemExit(f"{step.command} ended with status {process.returncode}")
        shown[place] = (shown[place][0], "p", f"$ {step.command}\0{time.monotonic() - began:.0f} s")
        now += LONGEST
        shown.append((now, "", ""))
    return shown


def _kind(line: str) -> str:
    good = ("champion" in line and "promoted" in line) or "is the new champion" in line
    return "g" if good else "r" if "damaged" in line or "truncated" in line or "failed" in line else ""


def draw(lines: list[tuple[float, str, str]]) -> str:
    """Return the SVG: every line appears at its second, and the screen scrolls when it is full."""
    whole = lines[-1][0] + REST
    wide, high = COLUMNS * WIDE + 32, ROWS * HIGH + 40
    style, body, scroll = [STYLE], [], ["0%{transform:translateY(0)}"]
    for number, (second, kind, text) in enumerate(lines):
        at = 100 * second / whole
        style.append(f"@keyframes a{number}{{0%,{at:.2f}%{{opacity:0}}{at + 0.01:.2f}%,100%{{opacity:1}}}}")
        style.append(f"#l{number}{{animation:a{number} {whole:.1f}s infinite}}")
        if number >= ROWS:
            up = (number - ROWS + 1) * HIGH
            scroll.append(
                f"{at:.2f}%{{transform:translateY({HIGH - up}px)}}{at + 0.01:.2f}%{{transform:translateY({-up}px)}}"
            )
        typed, _, took = text.partition("\0")
        typed = typed if len(typed) <= COLUMNS else typed[: COLUMNS - 1] + "…"
        body.append(
            f'<text id="l{number}" class="{kind}" x="16" y="{(number + 1) * HIGH + 14}">{escape(typed)}'
            + (f'<tspan class="t">   # {took}</tspan>' if took else "")
            + "</text>"
        )
    end = max(0, (len(lines) - ROWS) * HIGH)
    scroll.append(f"100%{{transform:translateY({-end}px)}}")
    style.append(
        "@keyframes s{" + "".join(scroll) + f"}}#s{{transform:translateY({-end}px);animation:s {whole:.1f}s infinite}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {high:.0f}" role="img" '
        f'aria-label="A terminal: the ten minutes of docs/tutorial.md"><style>{"".join(style)}</style>'
        f'<rect width="100%" height="100%" rx="8" fill="#16191d"/><svg y="12" height="{ROWS * HIGH + 16}">'
        f'<g id="s">{"".join(body)}</g></svg></svg>\n'
    )


def write(picture: str) -> None:
    (IMAGES / "ten-minutes.svg").write_text(picture, encoding="utf-8")
    stamp("ten-minutes.svg")
    print(IMAGES / "ten-minutes.svg", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        write(draw(record(Path(scratch))))
