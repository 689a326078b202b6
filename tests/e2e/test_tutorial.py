"""docs/tutorial.md does what it says: every command of it, in order, in an empty folder."""

from pathlib import Path

import pytest

from tests.tutorial import Step, start, steps


@pytest.mark.e2e
def test_every_command_of_the_tutorial_gives_the_output_that_it_shows(tmp_path: Path) -> None:
    typed = list(steps())
    assert len(typed) >= 7
    for step in typed:
        process = start(step.command, tmp_path)
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, f"{step.command}\n{output}"
        assert step.is_met_by(output), f"$ {step.command}\n{output}\n--- but the page says\n{step.wanted}"


def test_an_output_that_differs_in_a_word_is_seen() -> None:
    step = Step("x", "ingest   3 images\n...\nready\n")
    assert step.is_met_by("ingest 3 images\nand more\nready")
    assert not step.is_met_by("ingest 4 images\nand more\nready")
    assert not step.is_met_by("ingest 3 images\nand more\nready or not")
