"""The lock files: every package with hashes, and every dependency that pyproject.toml names."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HOME = Path(__file__).parents[1]
LOCKS = {
    "requirements.lock": ("make", "samples"),
    "requirements-dev.lock": ("dev",),
    "requirements-docs.lock": ("docs",),
    "requirements-onnx.lock": ("onnx",),
    "requirements-tensorflow.lock": ("tensorflow",),
}
PACKAGE = re.compile(r"^([A-Za-z0-9._-]+)==([^ \\;]+)[^\\\n]*(?:\\\n    --hash=sha256:[0-9a-f]{64} ?)+$", re.M)


def packages(name: str) -> dict[str, str]:
    """The version of each package of a lock."""
    text = (HOME / name).read_text(encoding="utf-8")
    found = {canonicalize_name(match[1]): match[2] for match in PACKAGE.finditer(text)}
    assert len(found) == len(re.findall(r"^[^ #\n]", text, re.M)), "a package without hashes"
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_dependency_is_locked_with_its_hashes(name: str) -> None:
    project = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [word for extra in LOCKS[name] for word in project["optional-dependencies"][extra]]
    locked = packages("requirements.lock") | packages("requirements-dev.lock") | packages(name)
    for requirement in map(Requirement, [*project["dependencies"], *wanted]):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


def test_what_the_demo_needs_has_no_tools_for_developers() -> None:
    runtime, tools = packages("requirements.lock"), packages("requirements-dev.lock")
    assert not runtime.keys() & tools.keys()
    assert {"pytest", "mypy", "ruff", "ray", "polars", "playwright"} <= tools.keys()
