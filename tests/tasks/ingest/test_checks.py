"""The night's page: pictures and findings are there before the night fails, and none when encrypted."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from upath import UPath

from resnet_core.catalog.placement import ClassPlacement, Placement
from resnet_core.drift.checks import ChecksConfig, ClassShareCheck
from resnet_core.drift.summary import Summary, summarise
from resnet_core.errors import DataCheckError
from resnet_core.images.preprocessing import Preprocessing
from resnet_core.plotting.sheets import ConflictPair
from tasks.artifacts import plain
from tasks.dataset import Dataset
from tasks.ingest.checks import Evidence, check_data, last_accepted
from tasks.values import Catalog, DataReport
from tests.places import a_workspace
from tests.resnet_core.drift.test_checks import quarantined, rows

Digits = tuple[np.ndarray, list[str]]
FAIL = ChecksConfig(class_share=ClassShareCheck(action="fail"))


@flow
def night(
    version: int, home: UPath, evidence: dict[str, Any], placement: Placement | None = None, **settings: Any
) -> DataReport:
    data = Dataset.model_validate({"name": "digits", "source": "digits", **settings})
    catalog = Catalog("digits", Preprocessing(), home, "", version, (), 0, 0, 0, 0, 0, placement=placement)
    return check_data(Evidence(**evidence), catalog, data, a_workspace(home))


def nights_of(home: UPath) -> UPath:
    return home / "checks" / "digits"


def summary(digits: Digits, without: str = "") -> Summary:
    images, labels = digits
    keep = [k for k, label in enumerate(labels) if label != without]
    return summarise(rows(images[keep], [labels[k] for k in keep]))


def given(digits: Digits, **more: Any) -> dict[str, Any]:
    """A night without the eights, against one with them, and one image under two labels."""
    image = digits[0][5]
    return {
        "now": summary(digits, without="8"),
        "last": summary(digits),
        "new": None,
        "samples": {"0": [digits[0][0]], "1": [digits[0][1]]},
        "conflicts": [ConflictPair(image, "5", "a/5|x.png", image, "9", "b/9*y.png")],
        **more,
    }


def newest_page() -> str:
    with get_client(sync_client=True) as client:
        (artifact,) = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["data-checks"])),
            sort=ArtifactSort.CREATED_DESC,
            limit=1,
        )
    return str(artifact.data)


@pytest.mark.usefixtures("prefect")
def test_a_warning_is_shown_written_and_logged_and_the_night_accepted(
    digits: Digits, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home, nights = UPath(tmp_path), nights_of(UPath(tmp_path))
    with caplog.at_level(logging.WARNING, "grayline"):
        report = night(2, home, given(digits))
    assert len(report.warnings) == 1
    (line,) = [record.getMessage() for record in caplog.records if record.name == "grayline"]
    assert line.startswith("checks      warn: class share: '8' 9.68% before, 0% now")
    page = newest_page()
    assert "| class share | **warning** | '8' 9.68% before, 0% now |" in page
    assert page.count("(data:image/webp;base64,") == 3
    for name in ("comparison.png", "samples.png", "conflicts.png"):
        with Image.open(tmp_path / "checks" / "digits" / "000002" / name) as picture:
            assert np.asarray(picture.convert("L")).std() > 10
    assert last_accepted(nights, 99) == ("000002", summary(digits, without="8"))


@pytest.mark.usefixtures("prefect")
def test_the_page_says_what_is_where_and_shows_look_alikes_side_by_side(digits: Digits, tmp_path: Path) -> None:
    image, classes = digits[0][5], (
        ClassPlacement("five | six", 30, 0, 10, 0, 40, fixed=False, free=True),
        ClassPlacement("new", 0, 0, 0, 3, 0, fixed=False, free=False),
    )  # fmt: skip
    alike = ConflictPair(image, "test, 5", "a/5.png", image, "train, differs by 0.001", "b/9.png")
    evidence = given(digits, now=summary(digits), conflicts=[], look_alikes=[alike])
    report = night(1, UPath(tmp_path), evidence, placement=Placement(classes, leaks=1, tied=(2, 1), free=40))
    page = newest_page()
    assert r"| five \| six | 30 | 0 | 10 | 0 | 100% |" in page
    assert "| new | 0 | 0 | 0 | 3 | 0% |" in page
    assert "1 of 10 test images look like a training image of their class" in page
    assert (tmp_path / "checks" / "digits" / "000001" / "look_alikes.png").exists()
    assert [finding.name for finding in report.findings][-1] == "split"
    assert not report.warnings


@pytest.mark.usefixtures("prefect")
def test_a_failed_night_is_shown_and_written_but_not_accepted(digits: Digits, tmp_path: Path) -> None:
    home, nights = UPath(tmp_path), nights_of(UPath(tmp_path))
    night(1, home, given(digits, now=summary(digits), last=None))
    with pytest.raises(DataCheckError, match=r"class share: '8' .*`action: warn`"):
        night(2, home, given(digits), checks=FAIL)
    assert "# digits: not accepted, 1 of 8 checks failed" in newest_page()
    written = json.loads((nights / "000002" / "summary.json").read_text())
    assert written["accepted"] is False
    assert (nights / "000002" / "conflicts.png").exists()
    assert last_accepted(nights, 99) == ("000001", summary(digits))


@pytest.mark.usefixtures("prefect")
def test_too_many_in_quarantine_fail_the_night_after_the_page_names_the_reasons(digits: Digits, tmp_path: Path) -> None:
    home, nights = UPath(tmp_path), nights_of(UPath(tmp_path))
    now = summary(digits) + summarise(quarantined({"truncated: 3 bytes | missing": 500, "blank: every pixel is 0": 99}))
    with pytest.raises(DataCheckError, match=r"599 of 2,396 images \(25%\).*truncated 500, blank 99"):
        night(1, home, given(digits, now=now), quarantine_limit=0.2)
    assert r"| truncated | 500 | truncated: 3 bytes \| missing |" in newest_page()
    assert last_accepted(nights, 99) is None


@pytest.mark.usefixtures("prefect")
def test_encrypted_data_leaves_no_picture_of_an_image(digits: Digits, tmp_path: Path) -> None:
    home, folder = UPath(tmp_path), nights_of(UPath(tmp_path)) / "000001"
    night(1, home, given(digits))
    assert (folder / "samples.png").exists()
    night(1, home, given(digits), encrypt=True)
    assert sorted(path.name for path in folder.iterdir()) == ["comparison.png", "summary.json"]
    page = newest_page()
    assert page.count("(data:image") == 1
    assert r"b/9\*y.png" in page


@pytest.mark.usefixtures("prefect")
def test_a_store_that_is_no_disk_holds_the_same(digits: Digits, tmp_path: Path) -> None:
    home = UPath(f"memory://{tmp_path.name}")
    nights = nights_of(home)
    night(1, home, given(digits))
    assert {path.name for path in (nights / "000001").iterdir()} == {
        *("comparison.png", "samples.png", "conflicts.png", "summary.json")
    }
    accepted = last_accepted(nights, 99)
    assert accepted
    assert accepted[0] == "000001"


def test_a_files_name_is_no_markdown() -> None:
    assert plain("![x](http://y)|<b>\n`z`") == r"\!\[x\](http\://y)\|\<b\> \`z\`"
