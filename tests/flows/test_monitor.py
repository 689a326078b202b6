"""Monitoring a champion with new labelled digits, and taking it back, on real Prefect and MLflow."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
import yaml
from mlflow.tracking import MlflowClient

from flows.cli import app as cli
from flows.cli.options import persons_list
from flows.monitor import monitor
from flows.nightly_retrain import nightly_retrain
from resnet_core.errors import UserError
from resnet_core.evaluation.comparison import Comparison
from resnet_core.evaluation.metrics import Interval
from tasks.registry.champion import events, make_champion
from tasks.registry.versions import resolve
from tasks.release.monitor import MonitorError, fewer_right, lower, would_do_better
from tasks.settings import Settings
from tasks.values import Check
from tests.conftest import write_folder, write_labels

pytestmark = pytest.mark.usefixtures("prefect")

Digits = tuple[np.ndarray, list[str]]
LEARNS = {"epochs": 8, "batch_size": 32, "optimizer": "sgd", "lr": 0.1, "augment": {"flips": "none"}}
BARELY = {"epochs": 1, "batch_size": 128, "lr": 1e-5, "augment": {"flips": "none"}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Iterator[Path]:
    """Two versions of a model: a good one that the gate let in, and one that has barely learned. `new/` has
    100 digits that neither has seen, `new/labels.csv` their labels."""
    folder = tmp_path_factory.mktemp("monitor")
    raw = write_folder(folder / "raw", digits, range(3), 300)
    new = write_folder(folder / "new", digits, range(3), 100, start=300)
    write_labels(new / "labels.csv", rows_of(new))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("GRAYLINE_STORE", str(folder / "store"))
        for train in (LEARNS, BARELY):
            content = {
                "name": "few", "source": str(raw), "image": {"size": 8}, "model": {"arch": "resnet10", "width": 16},
                "train": train, "gate": {"minimum": 0.8},
            }  # fmt: skip
            (folder / "few.yaml").write_text(yaml.safe_dump(content))
            nightly_retrain(str(folder / "few.yaml"))
        yield folder


def rows_of(folder: Path) -> list[dict[str, str]]:
    return [
        {"path": str(path.relative_to(folder)), "label": path.parent.name}
        for path in sorted(folder.glob("[0-9]/*.png"))
    ]


@pytest.fixture
def champion(home: Path) -> None:
    """Version 1 is the champion."""
    if resolve(Settings().tracking_uri, "few").version != "1":
        make_champion(Settings().tracking_uri, "few", "1", "for the next test")


def registry() -> MlflowClient:
    return MlflowClient(Settings().tracking_uri, registry_uri=Settings().tracking_uri)


def current() -> str:
    return resolve(Settings().tracking_uri, "few@champion").version


@pytest.mark.usefixtures("champion")
def test_a_good_champion_passes_and_its_run_keeps_each_time(home: Path) -> None:
    labels = str(home / "new" / "labels.csv")
    verdict = monitor(labels)
    assert verdict.count == 100
    assert verdict.found.value > 0.9
    assert {check.name: check.passed for check in verdict.checks} == {
        "floor": True, "evaluation": True, "unknown images": True,
    }  # fmt: skip
    assert verdict.left_out == {}
    monitor(labels, "few@champion")
    run_id = registry().get_model_version("few", "1").run_id
    history = registry().get_metric_history(run_id, "monitor_accuracy")
    assert [(metric.step, metric.value) for metric in history] == [(step, verdict.found.value) for step in (1, 2)]
    (file, *_) = registry().list_artifacts(run_id, "monitor")
    kept = json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/{file.path}"))
    assert kept["checks"][0]["name"] == "floor"
    assert kept["labels"] == labels
    assert registry().get_model_version("few", "1").tags["grayline.monitor"].startswith("passed ")


@pytest.mark.usefixtures("champion")
def test_a_bad_champion_fails_and_is_taken_back_only_when_asked(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = str(home / "new" / "labels.csv")
    make_champion(Settings().tracking_uri, "few", "2", "by mistake")
    with pytest.raises(MonitorError, match=r"Take it back with `grayline rollback few`") as caught:
        monitor(labels)
    failed = [check.name for check in caught.value.verdict.failed]
    assert failed == ["floor", "predecessor (version 1)"]  # its evaluation was as bad
    assert current() == "2"

    monkeypatch.setattr(sys, "argv", ["grayline", "monitor", "--labels", labels, "--rollback"])
    monkeypatch.setattr(cli, "prepare_environment", lambda: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    out, err = capsys.readouterr()
    assert "few version 2 on 100 new images: accuracy 0." in out
    assert "predecessor (version 1)" in out
    assert "Version 1 is the champion again." in err
    assert "Traceback" not in err
    assert current() == "1"
    last = events(Settings().tracking_uri, "few")[-1]
    assert (last.action, last.before, last.after) == ("rolled back", "2", "1")
    assert last.why.startswith("monitor: floor: ")
    assert "grayline.rolled_back" in registry().get_model_version("few", "2").tags


def test_two_versions_are_compared_by_hand(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "prepare_environment", lambda: None)

    def compare(*arguments: str) -> tuple[int, str, str]:
        page = ["--output", str(tmp_path / "flips.html")]
        monkeypatch.setattr(sys, "argv", ["grayline", "compare", *arguments, "--source", str(home / "new"), *page])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    code, out, err = compare("few/1", "few/2", "--limit", "50")
    assert code == 0
    assert "of 50 images" in out
    assert "drawn from 1" in out
    assert str(tmp_path / "flips.html") in out
    page = (tmp_path / "flips.html").read_text(encoding="utf-8")
    assert "few version 1 and few version 2" in page
    assert "data:image/webp" in page
    code, out, err = compare("few/1", "few/7")
    assert (code, out) == (2, "")
    assert "model 'few' has no version '7'. It has: 1, 2." in err
    code, out, err = compare("few/2", "models:/few/2")
    assert code == 2
    assert "B: models:/few/2 is few version 2, and so is few/2. Name two versions." in err


@pytest.mark.usefixtures("champion")
def test_what_is_not_new_or_cannot_be_read_does_not_count(home: Path) -> None:
    trained = sorted((home / "raw").rglob("*.png"))
    rows = rows_of(home / "new")
    (home / "new" / "broken.png").write_bytes(b"no image")
    (home / "new" / "copy.png").write_bytes((home / "new" / rows[0]["path"]).read_bytes())
    rows += [{"path": str(path), "label": path.parent.name} for path in trained]
    rows += [
        {"path": "broken.png", "label": "1"},
        {"path": "gone.png", "label": "1"},
        {"path": "copy.png", "label": rows[0]["label"]},
    ]
    rows[1]["label"] = ""
    labels = str(write_labels(home / "new" / "all.csv", rows))
    with persons_list(labels):  # it names images of another folder
        verdict = monitor(labels)
    held_out = verdict.count - 99
    assert 0 < held_out < 150
    assert verdict.left_out == {
        "no such file": 1, "no label": 1, "learned from": 300 - held_out, "unreadable": 1, "twice in it": 1,
    }  # fmt: skip


@pytest.mark.usefixtures("champion")
def test_wrong_labels_lower_what_is_found_but_blame_no_version(home: Path) -> None:
    """Half of the labels are wrong: below evaluation and floor, but its equal would do no better."""
    rows = rows_of(home / "new")
    for row in rows[::2]:
        row["label"] = str((int(row["label"]) + 1) % 3)
    make_champion(Settings().tracking_uri, "few", "2", "so that there is a predecessor")
    make_champion(Settings().tracking_uri, "few", "1", "again")
    with pytest.raises(MonitorError, match=r"would do no better: look at the new images") as caught:
        monitor(str(write_labels(home / "new" / "wrong.csv", rows)), rollback=True)
    assert [check.name for check in caught.value.verdict.failed] == ["floor", "evaluation"]
    assert current() == "1"


@pytest.mark.usefixtures("champion")
@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"label": "11"}, {}, "'11' is no class of the model. Did you mean '1'? Its classes: 0, 1, 2."),
        ({}, {"model": "few/2", "rollback": True}, "version 2 of few is not its champion"),
        ({}, {"model": "fwe"}, "Did you mean 'few'?"),
        (None, {}, "nowhere.csv is no file. Give a CSV or Parquet file with the columns path,label."),
        ("few", {}, "has 12 images that count; of fewer than 20 nothing can be said"),
    ],
)
def test_the_users_errors_name_the_remedy(
    home: Path, change: dict[str, str] | str | None, options: dict[str, object], message: str
) -> None:
    rows = rows_of(home / "new")[:40]
    if isinstance(change, dict):
        rows[3].update(change)
    rows = rows[:12] if change == "few" else rows
    path = write_labels(home / "new" / "some.csv", rows)
    with pytest.raises(UserError) as caught:
        monitor(str(home / "nowhere.csv" if change is None else path), **options)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert current() == "1"


def test_two_accuracies_are_told_apart_by_their_counts() -> None:
    held_out = Interval(0.95, 0.93, 0.97)
    assert fewer_right(Interval(0.9, 0.0, 1.0), 100, held_out, 500) == pytest.approx(0.0517, abs=0.02)
    assert fewer_right(Interval(0.8, 0.0, 1.0), 100, held_out, 500) < 0.001
    assert fewer_right(Interval(0.97, 0.0, 1.0), 100, held_out, 500) > 0.5
    assert lower(Interval(0.80, 0.75, 0.85), 100, held_out, 500) < 0.001
    assert lower(Interval(0.93, 0.88, 0.98), 100, held_out, 500) > 0.2
    assert lower(Interval(0.97, 0.95, 0.99), 100, held_out, 500) > 0.5
    assert lower(Interval(1.0, 1.0, 1.0), 100, Interval(1.0, 1.0, 1.0), 500) == 1


def test_a_predecessor_that_does_worse_is_no_remedy() -> None:
    below = [Check("floor", "", "", passed=False)]
    above = [Check("floor", "", "", passed=True)]

    def gap(value: float, p: float) -> Comparison:
        return Comparison(value, value - 0.1, 0.95, p, 1, 1, 100)

    assert would_do_better(gap(0.2, 0.001), above, holds=True)
    assert would_do_better(gap(0.2, 0.001), below, holds=False)
    assert would_do_better(gap(0.01, 0.4), below, holds=True)
    assert not would_do_better(gap(0.01, 0.4), above, holds=True)
    assert not would_do_better(gap(0.0, 1.0), below, holds=False)
