"""The batch flow on a trained version: its scores are the evaluation's, by any engine, in any order."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient
from prefect.client.orchestration import get_client
from pydantic import SecretStr

from flows.classify_batch import classify_batch
from flows.nightly_retrain import nightly_retrain
from resnet_core.errors import JobError, UserError
from resnet_core.policy import more_roots
from tasks.batch.record import SCORED
from tasks.settings import Settings
from tests.conftest import write_folder

pytestmark = pytest.mark.usefixtures("prefect")

Digits = tuple[np.ndarray, list[str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Path:
    """A folder with `raw/`, 400 digits of three classes, and a store that has a champion of them."""
    folder = tmp_path_factory.mktemp("trained")
    write_folder(folder / "raw", digits, range(3), 400)
    content = {
        "name": "few",
        "source": str(folder / "raw"),
        "image": {"size": 16},
        "model": {"arch": "resnet10", "width": 16, "score_flips": "horizontal"},
        "train": {"epochs": 3, "batch_size": 32},
        "gate": {"minimum": 0.5},
    }
    (folder / "few.yaml").write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("GRAYLINE_STORE", str(folder / "store"))
        nightly_retrain(str(folder / "few.yaml"))
    return folder


@pytest.fixture(autouse=True)
def settings(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("GRAYLINE_STORE", str(trained / "store"))


def evaluated(trained: Path) -> pd.DataFrame:
    """What the evaluation says of the held-out images, by id."""
    (path,) = (trained / "store" / "runs").rglob("predictions.parquet")
    return pd.read_parquet(path).set_index("image_id")


def compare(trained: Path, output: Path) -> None:
    rows, known = pd.read_parquet(output).set_index("image_id"), evaluated(trained)
    assert len(rows) == 400
    assert len(known) > 50
    mine, theirs = (np.stack(table.loc[known.index, "probabilities"].tolist()) for table in (rows, known))
    np.testing.assert_allclose(mine, theirs, atol=1e-5)
    assert (rows.loc[known.index, "label"] == known["predicted"]).all()


def test_scores_are_those_of_the_evaluation(trained: Path, tmp_path: Path) -> None:
    scores = classify_batch(str(trained / "raw"), str(tmp_path / "out"))
    assert (scores.files, scores.scored, scores.engine) == (400, 400, "torch")
    compare(trained, tmp_path / "out")


def test_and_in_another_order_and_other_parts(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.parts.LEAST_IN_A_PART", 37)
    files = sorted((trained / "raw").rglob("*.png"), key=lambda path: path.name[::-1])
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"{path},\n" for path in files))
    with more_roots([str(trained / "raw")]):
        classify_batch(str(tmp_path / "list.csv"), str(tmp_path / "out"))
    compare(trained, tmp_path / "out")


def test_images_to_review_have_a_heat_map(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--heatmaps: .*raw/heat lies in the source"):
        classify_batch(str(trained / "raw"), str(tmp_path / "out"), heatmaps=str(trained / "raw" / "heat"))
    assert not (tmp_path / "out").exists()
    scores = classify_batch(str(trained / "raw"), str(tmp_path / "out"), heatmaps=str(tmp_path / "heat"))
    rows = pd.read_parquet(tmp_path / "out")
    index = json.loads((tmp_path / "heat" / "_heatmaps.json").read_text())
    assert index["model"] == "few version 1"
    assert sorted(index["pictures"].values()) == sorted(rows[rows["needs_review"]]["uri"])
    assert len(list((tmp_path / "heat").glob("*.png"))) == scores.review > 0


@pytest.mark.onnx
@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_and_by_another_engine(trained: Path, tmp_path: Path, engine: str) -> None:
    scores = classify_batch(str(trained / "raw"), str(tmp_path / "out"), engine=engine)
    assert scores.engine == engine
    compare(trained, tmp_path / "out")


def test_without_an_output_the_next_run_finds_the_batch(trained: Path, digits: Digits) -> None:
    first = classify_batch(str(trained / "raw"))
    assert first.output.parent == Settings().root / "scores"
    again = classify_batch(str(trained / "raw"), return_state=True)
    assert again.message.startswith("400 files by few version 1: 400 scored, 0 failed, ")
    assert "need review" in again.message
    assert again.message.endswith(", 400 known from an earlier run")
    assert again.result().output == first.output


def test_the_batch_is_a_run_in_mlflow_and_rows_in_a_file(trained: Path, tmp_path: Path) -> None:
    to = tmp_path / "rows.csv"
    state = classify_batch(str(trained / "raw"), str(tmp_path / "out"), to=[SecretStr(str(to))], return_state=True)
    scores = state.result()
    with get_client(sync_client=True) as client:
        kept = client.read_flow_run(state.state_details.flow_run_id).parameters
    assert kept["to"] == ["**********"]  # it may have a password in it
    assert len(pd.read_csv(to)) == 400
    mlflow = MlflowClient(Settings().tracking_uri)
    experiment = mlflow.get_experiment_by_name("few-scores")
    runs = mlflow.search_runs([experiment.experiment_id])
    (found,) = (run for run in runs if run.data.params["output"] == str(scores.output))
    assert found.data.tags[SCORED]
    assert found.data.metrics["files"] == 400


def test_one_image_is_a_source_of_one(trained: Path, tmp_path: Path) -> None:
    image = next((trained / "raw").rglob("*.png"))
    scores = classify_batch(str(image), str(tmp_path / "out"), engine="torch")
    (row,) = pd.read_parquet(tmp_path / "out").to_dict("records")
    assert scores.files == 1
    assert scores.headline().startswith("1 file by few version 1: 1 scored, 0 failed, ")
    assert (row["uri"], row["status"]) == (str(image), "ok")


def test_a_batch_of_which_nothing_could_be_scored_fails_with_its_rows(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for name in ("a.png", "[b].png"):
        (tmp_path / "new" / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    for _ in range(2):  # once more, with the rows of the first run
        with pytest.raises(JobError, match="no file could be scored; 2 failed files: 2 ") as caught:
            classify_batch(str(tmp_path / "new"), str(tmp_path / "out"), engine="torch")
        assert str(tmp_path / "out") in str(caught.value)
        assert set(pd.read_parquet(tmp_path / "out")["status"]) == {"failed"}
