"""The docs are held against the code: defaults, links, and every word that a user may type or read."""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pydantic import BaseModel
from typer.core import TyperArgument
from upath import UPath

from resnet_core.catalog.build import CATALOG
from resnet_core.evaluation.metrics import GATE_METRICS, METRICS
from resnet_core.images.preprocessing import NO_KEY
from resnet_core.inference.scores import SCHEMA
from resnet_core.reasons import ReasonCode
from resnet_core.shards.format import make_table
from tasks.dataset import Dataset
from tasks.store import LAYOUT, Store
from tests.reference import DOCS, PAGES, commands, settings, words

HOME = DOCS.parent
PAGES_WITH_LINKS = [
    HOME / "README.md",
    HOME / "CONTRIBUTING.md",
    HOME / "benchmarks" / "README.md",
    *sorted(DOCS.rglob("*.md")),
]
DEFAULTS = Dataset(name="parts", source="data/raw/parts")


def yaml_block(page: Path, opening: str = "") -> Any:
    """Return the content of the page's first YAML block that begins with `opening`."""
    blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return yaml.safe_load(next(block for block in blocks if block.startswith(opening)))


def test_the_documented_defaults_are_the_defaults() -> None:
    assert Dataset.model_validate(yaml_block(DOCS / "dataset-file.md")) == DEFAULTS


@pytest.mark.parametrize(("page", "part"), [("evaluation.md", "evaluate"), ("gate.md", "gate"), ("drift.md", "drift")])
def test_a_page_about_a_part_shows_its_defaults(page: str, part: str) -> None:
    assert yaml_block(DOCS / page, part) == {part: DEFAULTS.model_dump()[part]}


@pytest.mark.parametrize("page", sorted((DOCS / "guides").glob("*.md")), ids=lambda page: page.stem)
def test_data_set_files_of_guides_are_valid(page: Path) -> None:
    for block in re.findall(r"```yaml\n(# data/.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        assert Dataset.model_validate(yaml.safe_load(block)), block


def test_every_page_is_in_the_navigation_once() -> None:
    named = re.findall(r": ([\w/-]+\.md)$", (HOME / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    made = re.findall(r'": "([\w-]+\.md)"', (DOCS / "hooks.py").read_text(encoding="utf-8"))
    assert sorted(named) == sorted([*(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")), *made])


def test_every_figure_of_the_numbers_page_is_in_the_log() -> None:
    sources = [HOME / "benchmarks" / "LOG.md", DOCS / "splits.md", HOME / "README.md"]
    log = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    rows = re.findall(
        r"^\| (.+?) \| (.+?) \| `(.+?)` \| (\d{4}-\d\d-\d\d) \|$", (DOCS / "numbers.md").read_text(), re.M
    )
    assert len(rows) >= 20
    for claim, figure, command, date in rows:
        assert f"## {date}" in log, claim
        for number in re.findall(r"\d+\.\d+|\d{1,3}(?:,\d{3})+", figure):
            assert re.search(rf"(?<![\d.]){re.escape(number)}", log), f"{claim}: {number}"
        if command.startswith("B "):
            assert (HOME / "benchmarks" / f"{command.split()[1]}.py").exists(), command


def test_the_readme_is_short() -> None:
    assert len((HOME / "README.md").read_text(encoding="utf-8").splitlines()) < 150


@pytest.mark.parametrize("name", PAGES)
def test_a_reference_page_is_up_to_date(name: str) -> None:
    page = (DOCS / name).read_text(encoding="utf-8")
    assert page == PAGES[name](), f"docs/{name} is older than the code: run `python -m tests.reference`"


def test_the_layout_of_the_store_has_every_path_that_the_code_builds() -> None:
    store = Store(UPath("/store"))
    methods = [method for name, method in inspect.getmembers(Store, inspect.isfunction) if name != "begin_work"]
    signatures = {method: inspect.signature(method) for method in methods}
    paths = [
        method(store, *("x" for _ in list(signature.parameters)[1:]))
        for method, signature in signatures.items()
        if signature.return_annotation is UPath
    ]
    assert len(paths) >= 10
    folders = {path.relative_to(store.root).parts[0] for path in paths}
    assert folders <= {place.path.split("/")[0] for place in LAYOUT}


@pytest.mark.parametrize("page", PAGES_WITH_LINKS, ids=lambda page: str(page.relative_to(HOME)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            place = page.parent / target if target else page
            assert place.exists(), target
            assert not anchor or anchor in anchors(place), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def words_of_commands() -> Iterator[tuple[str, str]]:
    """Yield every command, option and argument with its page."""
    for name, command in commands():
        yield "commands.md", f"`grayline {name}"
        for parameter in command.params:
            kind = "" if isinstance(parameter, TyperArgument) else "`"
            yield from (("commands.md", f"{kind}{word}") for word in words(parameter))


def keys(part: Any, place: str = "") -> Iterator[str]:
    """Yield every key of a data set file with its parts: `train.augment.flips`."""
    if dataclasses.is_dataclass(part):
        names = [field.name for field in dataclasses.fields(part) if field.metadata != NO_KEY]
    else:
        names = list(type(part).model_fields)
    for name in names:
        yield f"{place}{name}"
        value = getattr(part, name)
        if dataclasses.is_dataclass(value) or isinstance(value, BaseModel):
            yield from keys(value, f"{place}{name}.")


def documented_keys(content: dict[str, Any], place: str = "") -> Iterator[str]:
    """Yield every key of the documented file, in the same form."""
    for name, value in content.items():
        yield f"{place}{name}"
        if isinstance(value, dict):
            yield from documented_keys(value, f"{place}{name}.")


def test_every_key_of_a_data_set_file_is_documented() -> None:
    assert set(keys(DEFAULTS)) <= set(documented_keys(yaml_block(DOCS / "dataset-file.md")))


SHARD = make_table(*[pa.array(["a"])] * 3, pa.array([1.0], pa.float32()), np.zeros((1, 8, 8), np.uint8), {})
WORDS = [
    *words_of_commands(),
    *(("settings.md", f"`{variable}`") for variable, _, _ in settings()),
    *(("store.md", f"`{name}`") for name in (*CATALOG.names, *SHARD.column_names)),
    *(("scoring.md", f"`{name}`") for name in SCHEMA.names),
    *((page, name) for page in ("gate.md", "dataset-file.md") for name in GATE_METRICS),
    *(("reasons.md", f"| `{code}` |") for code in ReasonCode),
    *(("metrics.md", f"| `{name}` |") for name in METRICS),
]


@pytest.mark.parametrize(("page", "word"), sorted(set(WORDS)))
def test_is_documented(page: str, word: str) -> None:
    assert word in (DOCS / page).read_text(encoding="utf-8"), f"docs/{page} does not mention {word}"


def test_every_test_that_a_table_of_the_security_page_names_is_there() -> None:
    """A cell names files, and behind a colon words of the names of their tests."""
    cells = [line.rstrip("| ").rpartition("|")[2] for line in (DOCS / "security.md").read_text().splitlines()]
    files = {path.name: path for path in (HOME / "tests").rglob("test_*.py")}
    named = [(text, path) for text in cells for path in re.findall(r"tests/[\w/.]+|test_\w+\.py", text)]
    assert len(named) > 50
    assert [path for _, path in named if not (HOME / path).exists() and path not in files] == []
    for text in cells:
        for name, tests in re.findall(r"(test_\w+\.py)`?: (\w+_\w+(?:, \w+_\w+)*)", text):
            content = files[name].read_text()
            assert [word for word in tests.split(", ") if not re.search(rf"def test_\w*{word}", content)] == [], name
