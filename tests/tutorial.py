"""The `console` blocks of docs/tutorial.md: what is typed, and what must come out."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
BIN = Path(sys.executable).parent
OURS = ("GRAYLINE", "PREFECT", "MLFLOW", "PYTHON")


@dataclass(frozen=True)
class Step:
    """A command and its output; `...` in the output is any text."""

    command: str
    wanted: str

    def is_met_by(self, output: str) -> bool:
        """Compare, whatever the widths of columns and the ends of lines are."""
        parts = [r"\s+".join(map(re.escape, part.split())) for part in self.wanted.split("...")]
        return re.fullmatch(r"\s*" + r".*".join(parts) + r"\s*", output, re.DOTALL) is not None


def steps(page: Path = PAGE) -> Iterator[Step]:
    """Yield the commands of the page in order."""
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, wanted = part.partition("\n")
            yield Step(command, wanted)


def environment() -> dict[str, str]:
    """Return a person's environment, with nothing of ours in it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return env | {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(PAGE.parents[1]), "PYTHONUNBUFFERED": "1"}


def start(command: str, folder: Path) -> "subprocess.Popen[str]":
    """Start a command as a person would, in a folder."""
    return subprocess.Popen(
        command, shell=True, cwd=folder, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
