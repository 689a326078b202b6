"""The nightly page: the morning's story in one screen."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image
from upath import UPath

from flows.nightly_retrain import nightly_retrain
from resnet_core.drift.checks import Finding
from resnet_core.evaluation.evidence import Baseline, Evidence
from resnet_core.evaluation.metrics import Interval
from resnet_core.images.preprocessing import Preprocessing
from tasks.registry.versions import BEFORE, CHAMPION
from tasks.report.night_page import Before, catalog_changes, champion_before, headline, markdown
from tasks.store import Store
from tasks.values import Catalog, Check, Checkpoint, DataReport, Decision, Evaluation, ModelVersion, Night, ShardSet
from tests.versions import Digits, log_tested, register_version

FLOOR = Check("floor", "accuracy at least 0.800", "0.848 (0.819 to 0.874)", passed=True)
SLICES = Check("slices", "none worse by 0.030", "type|poly: -0.05", passed=False)


def night(*checks: Check, promoted: bool, version: str = "7", read: int = 40) -> Night:
    """A night that went to its end."""
    made = ModelVersion("cells", version, "run")
    found = Interval(0.848, 0.819, 0.874)
    metrics = dict.fromkeys(("accuracy", "macro_f1", "roc_auc"), found)
    evidence = Evidence(650, None, {"a": 325, "b": 325}, metrics, {}, Baseline(0.84, 0.5, 0.0005, passed=True))
    reason = "; ".join(f"{check.name}: {check.found}" for check in checks if not check.passed) or "better"
    return Night(
        Catalog("cells", Preprocessing(), UPath("c"), "d" * 16, 12, ("a", "b"), 2600, 20, 4, 100, read),
        DataReport(UPath("checks"), (Finding("brightness", "0.2 apart", "at most 0.1", "warn"),)),
        ShardSet("cells", UPath("s"), (UPath("s"),), "e" * 16, ("a", "b"), Preprocessing(96), 1900, 0, 650, 40),
        Checkpoint("cells", UPath("r"), "f" * 16, 30, 0.9, 200.0, "cpu", False, "run"),
        Evaluation(UPath("r"), metrics, 650, evidence, worse=("type poly",)),
        made,
        Decision(made, checks, promoted, reason),
    )


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"


def test_a_refused_night_says_which_check_failed_and_who_stays() -> None:
    page = markdown(night(FLOOR, SLICES, promoted=False), Before("6", {"accuracy": 0.840}), "34 came, 2 went")
    for expected in (
        "# cells: version 7 was not promoted",
        "1 of 2 checks failed; version 6 stays the champion: slices: type\\|poly: -0.05",
        "accuracy 0.848 (0.819 to 0.874) on 650 held-out images, +0.008 against version 6's own",
        "**significantly worse than the rest**: type poly",
        "40 images were read; 34 came, 2 went; 2,600 are good",
        "**the data checks warn**: ",
        "| slices | **failed** | none worse by 0.030 | type\\|poly: -0.05 |",
        "| accuracy | 0.848 (0.819 to 0.874) | 0.840 | \\+0.008 |",
        "`grayline promote cells 7`",
        "| train | 30 epochs",
    ):
        assert expected in page, expected
    first = page.split("## Stages")[0]
    assert len(first.splitlines()) < 40  # one screen
    assert "rollback" not in page


def test_a_promoted_night_says_how_to_take_it_back_and_where_to_look() -> None:
    found = night(FLOOR, promoted=True)
    page = markdown(found, tracking_uri="http://mlflow.plant:5000/")
    assert "# cells: version 7 is the new champion" in page
    assert "- every check passed: better" in page
    assert "`grayline rollback cells`" in page
    assert "(http://mlflow.plant:5000/#/models/cells/versions/7)" in page
    assert "`grayline report cells/7 -o report.html`" in page
    assert "secret" not in markdown(found, tracking_uri="http://me:secret@mlflow.plant")


def test_a_night_that_changed_nothing_and_one_that_stopped_early_are_told_too() -> None:
    quiet = markdown(night(promoted=False, read=0))
    assert "# cells: nothing has changed; version 7 stays the champion" in quiet
    assert "no image was new; 2,600 are good" in quiet
    assert "## Gate" not in quiet
    whole = night(FLOOR, promoted=True)
    early = Night(whole.catalog, replace(whole.data, findings=()))
    assert headline(early) == "cells: ingest is done"
    page = markdown(early)
    assert "the data checks have nothing to report" in page
    assert "## Where to look" not in page


def test_tonight_is_held_against_the_champion_that_was_there_before(tracking_uri: str) -> None:
    old, mlflow = register_version(tracking_uri, "cells")
    new, _ = register_version(tracking_uri, "cells")
    log_tested(mlflow, old, {"accuracy": Interval(0.84, 0.8, 0.9), "nll": Interval(0.3, 0.2, 0.4)})
    mlflow.set_registered_model_alias("cells", CHAMPION, old.version)
    refused = replace(night(SLICES, promoted=False), version=new)
    expected = Before(old.version, {"accuracy": pytest.approx(0.84)})
    assert champion_before(refused, tracking_uri) == expected

    mlflow.set_registered_model_alias("cells", CHAMPION, new.version)  # promoted: the alias is its own by now
    mlflow.set_model_version_tag("cells", new.version, BEFORE, old.version)
    promoted = night(FLOOR, promoted=True, version=new.version)
    assert champion_before(promoted, tracking_uri) == expected
    first = night(FLOOR, promoted=True, version=old.version)
    assert champion_before(first, tracking_uri) is None


@pytest.mark.usefixtures("prefect")
def test_what_came_and_went_is_that_of_tonights_version(
    store: Path, digit_folder: Path, digits: Digits, tmp_path: Path
) -> None:
    file = tmp_path / "cells.yaml"
    file.write_text(yaml.safe_dump({"name": "cells", "source": str(digit_folder), "image": {"size": 8}}))
    first = nightly_retrain(str(file), "ingest")
    assert catalog_changes(first, Store(UPath(store))) == "200 came"
    for gone in sorted(digit_folder.rglob("*.png"))[:3]:
        gone.unlink()
    Image.fromarray(digits[0][1500]).save(digit_folder / digits[1][1500] / "new.png")
    second = nightly_retrain(str(file), "ingest")
    assert catalog_changes(second, Store(UPath(store))) == "1 came, 3 went"
    assert "1 image was read; 1 came, 3 went; 198 are good" in markdown(second, None, "1 came, 3 went")
    third = nightly_retrain(str(file), "ingest")
    assert catalog_changes(third, Store(UPath(store))) == ""


def test_recalls_name_the_class_that_is_missed_most_first() -> None:
    recalls = {
        "ok": Interval(0.99, 0.95, 1.0),
        "torn": Interval(0.6, 0.3, 0.9),
        "gone": Interval(float("nan"), float("nan"), float("nan")),
    }
    found = night(FLOOR, promoted=True)
    assert found.evaluation
    evidence = replace(found.evaluation.evidence, supports={"ok": 90, "torn": 10, "gone": 0}, recalls=recalls)
    page = markdown(replace(found, evaluation=replace(found.evaluation, evidence=evidence)))
    assert "| recall | 'torn' 0.600 (0.300 to 0.900) of 10, 'ok' 0.990 (0.950 to 1.000) of 90 |" in page
