"""The tour of CONTRIBUTING.md: its files exist, and a path is short enough for an evening."""

import re
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
CONTRIBUTING = (HOME / "CONTRIBUTING.md").read_text(encoding="utf-8")
MOST_LINES = 1500


@pytest.mark.parametrize("path", ["The night", "The batch"])
def test_a_path_of_the_tour_exists_and_takes_an_evening(path: str) -> None:
    section = CONTRIBUTING.split(f"### {path}")[1].split("\n#")[0]
    files = [HOME / name for name in re.findall(r"^\| `(\S+\.py)` \|", section, re.MULTILINE)]
    assert len(files) >= 8
    lines = {str(file.relative_to(HOME)): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert sum(lines.values()) <= MOST_LINES, lines


def test_every_file_that_contributing_names_exists() -> None:
    names = re.findall(r"`([a-z_]+/[\w/]+\.py)`", CONTRIBUTING)
    assert names
    for name in names:
        assert (HOME / name).exists(), name


def test_the_plan_names_every_wing_and_room() -> None:
    plan = CONTRIBUTING.split("```")[3]
    for floor, wings in re.findall(r"^(tasks|resnet_core)/(.*?)\n\n", plan, re.MULTILINE | re.DOTALL):
        code = {path.name for path in (HOME / floor).iterdir() if path.is_dir() and (path / "__init__.py").exists()}
        rooms = {path.name for path in (HOME / floor).glob("*.py")} - {"__init__.py"}
        assert set(re.findall(r"(\w+)/", wings)) == code
        assert set(re.findall(r"\w+\.py", wings)) == rooms
