"""Printing: names from data appear as they are, on the terminal, in Markdown and on pages; no name is markup."""

import io
import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
from jinja2 import Environment
from markdown_it import MarkdownIt
from upath import UPath

from flows.cli import tables
from flows.cli.labels import _show_label_issues
from flows.cli.scores import show_scores
from flows.cli.store import _describe
from resnet_core.errors import UserError, plural, some_of
from resnet_core.storage.names import json_line, visible
from tasks import progress
from tasks.artifacts import Markdown, code, markdown_table, plain, publish_table
from tasks.batch import progress as batch_progress
from tasks.batch.finish import markdown as scores_page
from tasks.batch.record import note
from tasks.batch.values import DriftReport, Scores
from tasks.report.pages import environment
from tasks.training.label_issues import LabelIssues
from tasks.values import ModelVersion

HOSTILE = {
    "[/b]": "[/b]",
    "[ok]": "[ok]",
    "[link=http://x]a[/link]": "[link=http://x]a[/link]",
    ":cat:": ":cat:",
    "\x1b[31mred": "\\x1b[31mred",
    "a\nb\r\tc": "a\\nb\\r\\tc",
    "\u202egpj.exe": "\\u202egpj.exe",
    "\u2066x\u2069": "\\u2066x\\u2069",
    "\x9b31m": "\\x9b31m",
    "caf\udce9": "caf\\udce9",
    "日本 été": "日本 été",
}
VERSION = ModelVersion("parts", "1", "")


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Everything that the two consoles print, as to a colour terminal 400 columns wide."""
    out = io.StringIO()
    for place in (tables, progress, batch_progress):
        console = progress.PlainConsole(file=out, width=400, force_terminal=True, soft_wrap=True)
        monkeypatch.setattr(place, "console", console)
    return out


def text_of(out: io.StringIO) -> str:
    """The text without the colours that Rich itself writes."""
    return re.sub(r"\x1b\[[0-9;]*[a-zA-Z]", "", out.getvalue())


def scores(labels: dict[str, tuple[int, float]], output: UPath) -> Scores:
    reasons = {"[/b] damaged": 1}
    return Scores("[/red]", output, (), VERSION, "torch", 13, 12, 0, labels, 1.0, None, 0, reasons)


def test_commands_print_names_as_they_are(
    printed: io.StringIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.cli.scores.console", tables.console)
    monkeypatch.setattr("flows.cli.labels.console", tables.console)
    show_scores(scores(dict.fromkeys(HOSTILE, (1, 0.5)), UPath(tmp_path / "[i]out[/i]")))
    worst = tuple((name, name, name, 0.1) for name in HOSTILE)
    _show_label_issues(LabelIssues("parts", UPath("/x"), UPath("/x[/]"), None, 9, len(worst), worst, "run"))
    tables.say(*HOSTILE)
    lines = text_of(printed).splitlines()
    for name, shown in HOSTILE.items():
        assert sum(shown in line for line in lines) == 3 + (name == "[/b]"), name
    assert any(line.endswith("[i]out[/i]") for line in lines)


def test_log_lines_and_errors_print_names_as_they_are(printed: io.StringIO) -> None:
    log = logging.Logger("x")
    log.addHandler(progress.ConsoleHandler())
    for name in HOSTILE:
        log.warning("labels %s", name)
        progress.complain(UserError(f"x: {name}"))
    lines = text_of(printed).splitlines()
    assert lines == [line for shown in HOSTILE.values() for line in (f"labels {shown}", f"grayline: x: {shown}")]


def test_the_table_of_a_running_batch_prints_names_as_they_are(printed: io.StringIO) -> None:
    with batch_progress._live(20) as show:
        show(11, 1, batch_progress.Counter(dict.fromkeys(HOSTILE, 1)))
    for shown in HOSTILE.values():
        assert shown in text_of(printed)


def test_several_problems_are_several_lines(printed: io.StringIO) -> None:
    progress.complain(UserError("a", "b"))
    assert text_of(printed) == "grayline: a\ngrayline: b\n"


@pytest.mark.parametrize(
    "name", [*HOSTILE, "|", "`x`", "<b>x</b>", "**x**", "![x](http://y)", "http://x.y", "&lt;", "~~x~~"]
)
def test_markdown_shows_names_as_they_are(name: str) -> None:
    made = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    table = made.render(markdown_table(("a", "b"), [(name, Markdown("**bold**"))]))
    cell = re.search(r"<tbody>\s*<tr>\s*<td>(.*?)</td>", table, re.DOTALL)
    assert cell is not None
    want = visible(" ".join(name.split())).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert cell[1] == want.replace('"', "&quot;")
    assert "<strong>bold</strong>" in table
    assert re.fullmatch(r"<p><code>(.*)</code></p>\s*", made.render(code(name)))
    assert "\n" not in plain(name)


@pytest.mark.parametrize("name", ["# a", "- a", "1. a", "+ a", "=", "--- "])
def test_a_line_that_begins_with_a_name_is_no_list_or_heading(name: str) -> None:
    made = MarkdownIt("commonmark").render(f"above\n{plain(name)}\n\n{plain(name)}")
    assert not re.search("<(h1|h2|li|hr)", made), made


def test_any_log_handler_gets_text_without_codes_and_secrets(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="grayline"):
        logging.getLogger("grayline").warning("labels %s of %s", "\x1b[2J\n\u202eevil", "http://me:geheim@h/x")
    assert "labels \\x1b[2J\\n\\u202eevil of http://h/x" in caplog.text


def test_a_line_of_json_is_the_same_json_without_codes() -> None:
    for name in [*HOSTILE, "\x1b]0;x\x07", "\x9b2J", "\U000e0041"]:
        line = json_line({name: [name, 0.5]})
        assert json.loads(line) == {name: [name, 0.5]}
        assert visible(line) == line


def test_prefects_tables_and_descriptions_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, object] = {}
    monkeypatch.setattr("tasks.artifacts.create_table_artifact", lambda rows, **more: made.update(rows=rows, **more))
    publish_table([{"check": "recall of \x1b[31m[a](http://x)", "n": 3}], key="gate", description="[a](http://x)")
    (row,) = made["rows"]  # type: ignore[misc, attr-defined]
    assert MarkdownIt("commonmark").render(row["check"]) == "<p>recall of \\x1b[31m[a](http://x)</p>\n"
    assert row["n"] == 3
    assert "<a" not in MarkdownIt("commonmark").render(str(made["description"]))


def test_mlflows_note_of_a_batch_shows_names_as_they_are(tmp_path: Path) -> None:
    hostile = replace(scores({}, UPath(tmp_path / "`](http://x) [a](http://y)")), source="`<img src=x>`")
    text = note(hostile, DriftReport(VERSION, 0, (), "**no** [reference](http://z)"))
    page = MarkdownIt("commonmark").render(text)
    assert not re.search("<(a|img|strong)", page), page


def test_the_page_of_a_batch_shows_names_as_they_are(tmp_path: Path) -> None:
    page = scores_page(scores(dict.fromkeys(HOSTILE, (1, 0.5)), UPath(tmp_path)), [(name, name) for name in HOSTILE])
    assert sum(line.startswith("| ") for line in page.splitlines()) == 2 + len(HOSTILE) + 2 + len(HOSTILE)
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_pages_show_names_as_they_are() -> None:
    own = environment()
    made = Environment(autoescape=True, finalize=own.finalize).from_string("<b>{{ name }}</b>{{ number }}")
    for name, shown in HOSTILE.items():
        text = made.render(name=name, number=3)
        assert text.replace("&#39;", "'") == f"<b>{shown.replace(chr(92) + 'n', chr(10))}</b>3"


def test_what_a_changed_file_is_said_to_be() -> None:
    same = {
        f"{key}{end}": "x" for key in ("image_id", "label", "soft_label", "split", "status") for end in ("", "_before")
    }
    assert _describe(same | {"change": "changed", "image_id": "y"}) == "other bytes"
    gone = same | {"change": "changed", "image_id": None, "status": "quarantined", "split": None}
    assert _describe(gone) == "bytes gone or unreadable, split x -> none, status x -> quarantined"


def test_numbers_agree_with_their_nouns_and_no_list_ends_in_one_more() -> None:
    assert (plural(1, "image"), plural(0, "image"), plural(2000, "class", "classes")) == (
        "1 image",
        "0 images",
        "2,000 classes",
    )
    assert some_of(["a", "b", "c"], 2) == "a, b, c"
    assert some_of(["a", "b", "c", "d"], 2) == "a, b, and 2 more"


def test_a_table_in_a_pipe_keeps_long_paths_whole() -> None:
    out = io.StringIO()
    console = progress.PlainConsole(file=out, width=tables._PIPE_WIDTH, soft_wrap=True)
    rows = tables.table("", "file", "what")
    rows.add_row("changed", "/" + "x" * 2000 + ".png", "label a -> b")
    console.print(rows)
    assert "/" + "x" * 2000 + ".png" in out.getvalue()


def test_no_command_prints_but_through_the_escape() -> None:
    """Rich's own consoles obey brackets; the consoles of commands and progress do not."""
    home = Path(tables.__file__).parents[2]
    for file in [*(home / "flows").rglob("*.py"), *(home / "tasks").rglob("*.py")]:
        text = file.read_text(encoding="utf-8")
        assert not re.search(
            r"(?<!Plain)\bConsole\(|from_markup|rich\.print|TextColumn\(\"[^\"]*\{[^)]*\)$", text, re.M
        ) or (file.name == "progress.py"), file
