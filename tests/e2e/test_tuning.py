"""`grayline tune` and `grayline train --folds`, each in a process of its own."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tasks.dataset import Dataset
from tests.conftest import write_folder
from tests.e2e.test_commands import run

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, digits: tuple[np.ndarray, list[str]]) -> Path:
    """120 digits of two classes, and a data set file over them."""
    folder = tmp_path_factory.mktemp("tuning")
    write_folder(folder / "raw", digits, range(2), 120)
    content = {
        "name": "few", "source": "raw", "image": {"size": 8}, "model": {"arch": "resnet10", "width": 16},
        "train": {"epochs": 2, "batch_size": 16, "optimizer": "sgd", "lr": 0.1},
    }  # fmt: skip
    (folder / "few.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.mark.heavy
def test_tune_ends_with_a_fragment_for_the_data_set_file(folder: Path) -> None:
    done = run("grayline", "tune", "--dataset", "few.yaml", "--trials", "2", "--epochs", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    fragment = yaml.safe_load(done.stdout.partition("# for the data set file\n")[2].partition("\n\n")[0])
    content = yaml.safe_load((folder / "few.yaml").read_text())
    assert Dataset.model_validate({**content, "train": fragment["train"]})
    assert (folder / "data" / "store" / "tune" / "few" / "study.db").exists()
    assert done.stderr.count("trial 0: ") == done.stderr.count("trial 1: ") == 1


@pytest.mark.heavy
def test_folds_end_with_a_row_a_training_image(folder: Path) -> None:
    done = run("grayline", "train", "--dataset", "few.yaml", "--folds", "2", cwd=folder)
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "data" / "store" / "runs" / "few").glob("*/out_of_fold.parquet")
    assert str(path) in done.stdout
    assert set(pd.read_parquet(path)["fold"]) == {0, 1}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["train", "--folds", "1"], "grayline: --folds: 1 is too few."),
        (["tune", "--trials", "0"], "grayline: --trials: 0 is too few."),
    ],
)
def test_a_number_that_cannot_be_meant_is_one_line_and_status_2(folder: Path, command: list[str], said: str) -> None:
    done = run("grayline", *command, "--dataset", "few.yaml", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1
