"""What the documents say is what the code does."""

import re
from pathlib import Path

import yaml

from tasks.dataset import Dataset

HOME = Path(__file__).parents[1]


def test_the_documented_defaults_are_the_defaults() -> None:
    text = (HOME / "docs" / "dataset-file.md").read_text()
    documented = Dataset.model_validate(yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.S)[1]))  # type: ignore[index]
    assert documented == Dataset(name="parts", source="data/raw/parts")
    content = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.S)[1])  # type: ignore[index]
    for part, known in Dataset(name="a", source="b").model_dump().items():
        if isinstance(known, dict):
            assert set(content[part]) == set(known), part


def test_the_documented_evaluation_is_the_default() -> None:
    text = (HOME / "docs" / "evaluation.md").read_text()
    documented = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.S)[1])  # type: ignore[index]
    assert documented == {"evaluate": Dataset(name="a", source="b").evaluate.model_dump()}


def test_the_documented_thresholds_of_drift_are_the_defaults() -> None:
    text = (HOME / "docs" / "drift.md").read_text()
    documented = yaml.safe_load(re.search(r"```yaml\n(drift:.*?)```", text, re.S)[1])  # type: ignore[index]
    assert documented == {"drift": Dataset(name="a", source="b").model_dump()["drift"]}


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for document in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", (HOME / document).read_text()):
            if not target.startswith("http"):
                assert (HOME / target).exists(), target


def test_the_example_of_the_readme_is_a_valid_data_set_file() -> None:
    text = (HOME / "README.md").read_text()
    assert Dataset.model_validate(yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.S)[1]))  # type: ignore[index]
