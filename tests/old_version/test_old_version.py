"""A store of commit f0480c9 goes on: its version loads, its batch and its catalog are gone on with."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flows.classify_batch import classify_batch
from flows.nightly_retrain import nightly_retrain
from flows.promote import rollback
from flows.reproduce import reproduce
from tasks.prune import leftovers
from tasks.registry.champion import events
from tasks.settings import Settings
from tasks.workspace import workspace
from tests.old_version import IMAGES, unpack

REPOSITORY = Path(__file__).parents[2]
LOADS = """
import sys
# An installed Grayline is not to be found: only what is on PYTHONPATH is.
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
sys.path = [place for place in sys.path if not place.startswith("__editable__")]
if "imported" in sys.argv:
    import resnet_core.model.classifier
import json, mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/digits/2")
from resnet_core.classifier import Classifier
code = sys.modules[Classifier.__module__].__file__
print(json.dumps([code, model.predict(np.load(sys.argv[2])).to_dict("list")]))
"""


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the store, the digits and the batch; the settings point to the store."""
    unpack(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("GRAYLINE_STORE", str(tmp_path / "store"))
    return tmp_path


def load_by_pyfunc(old: Path, images: np.ndarray, *words: str, **environment: str) -> tuple[str, dict[str, list]]:
    """Return the file of the classifier's code, and the predictions, of a process of its own."""
    np.save(old / "images.npy", images)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", LOADS, f"sqlite:///{old / 'store' / 'mlflow.db'}", str(old / "images.npy"), *words],
        env=kept | environment,
        cwd=old,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code, predictions = json.loads(done.stdout.splitlines()[-1])
    return code, predictions


@pytest.mark.usefixtures("prefect")
def test_the_version_predicts_the_same_by_its_own_code_by_this_code_and_in_a_batch(old: Path) -> None:
    files = sorted((old / "digits").glob("*/0*.png"))
    images = np.stack([np.asarray(Image.open(path)) for path in files])
    own_code, own = load_by_pyfunc(old, images)
    assert own_code.startswith(str(old / "store"))
    new_code, new = load_by_pyfunc(old, images, "imported", PYTHONPATH=str(REPOSITORY))
    assert new_code == str(REPOSITORY / "resnet_core" / "model" / "classifier.py")
    classify_batch(str(old / "digits"), str(old / "again"), "digits/2", engine="torch")
    scores = {row["uri"]: row for row in pq.read_table(sorted((old / "again").glob("*.parquet"))).to_pylist()}
    batch = [scores[str(path)] for path in files]
    for name in ("label", "prediction_set", "needs_review"):
        assert own[name] == new[name] == [row[name] for row in batch]
    np.testing.assert_allclose(new["probabilities"], own["probabilities"], rtol=0, atol=1e-6)
    np.testing.assert_allclose([row["probabilities"] for row in batch], own["probabilities"], rtol=0, atol=1e-6)


@pytest.mark.usefixtures("prefect")
def test_its_batch_is_scored_again_in_the_same_folder(old: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {row["uri"]: row for row in pq.read_table(sorted((old / "digits-scores").glob("*.parquet"))).to_pylist()}
    drift_before = json.loads((old / "digits-scores" / "_drift.json").read_text())
    with caplog.at_level("INFO", "grayline"):
        scores = classify_batch(str(old / "digits"), str(old / "digits-scores"), "digits/2", engine="torch")
    assert (scores.files, scores.failed) == (IMAGES + 3, 2)
    after = {row["uri"]: row for row in pq.read_table(sorted((old / "digits-scores").glob("*.parquet"))).to_pylist()}
    assert after.keys() == before.keys()
    for uri, row in before.items():
        for name in ("image_id", "status", "label", "prediction_set", "needs_review", "width", "height"):
            assert after[uri][name] == row[name]
    drift_after = json.loads((old / "digits-scores" / "_drift.json").read_text())
    for name in drift_before["measures"].keys() - {"embedding"}:  # its sample is drawn by the files' paths
        assert drift_after["measures"][name]["distance"] == pytest.approx(drift_before["measures"][name]["distance"])
    assert (
        sum(
            "do not say by which files of digits version 2: every file is scored again" in line
            for line in caplog.messages
        )
        == 1
    )


@pytest.mark.usefixtures("prefect")
def test_a_night_goes_on_from_its_catalog_and_its_champion(old: Path, caplog: pytest.LogCaptureFixture) -> None:
    columns = ["uri", "image_id", "label", "split", "group", "width", "height", "status", "near", "present"]
    path = old / "store" / "catalog" / "digits" / "catalog.parquet"
    before = pq.read_table(path, columns=columns).sort_by("uri")
    with caplog.at_level("INFO", "grayline"):
        night = nightly_retrain(str(old / "digits.yaml"))
    assert pq.read_table(path, columns=columns).sort_by("uri") == before
    assert night.catalog.version == 1  # nothing has changed
    assert sum("by other settings or code" in line for line in caplog.messages) == 1
    assert night.version is not None
    assert night.version.version == "3"
    assert night.decision is not None
    assert "version 2" in str(night.decision.checks)  # the champion was scored on the same images

    again = reproduce("digits/2")
    assert again.metrics or again.identical
    assert rollback("digits", 1).version == "1"
    assert [event.action for event in events(Settings().tracking_uri, "digits")][-1] == "rolled back"
    in_a_year = datetime.now(UTC) + timedelta(days=366)
    left = leftovers(workspace(), in_a_year)
    assert [leftover.why for leftover in left] == ["pixels by other settings or another release"]
