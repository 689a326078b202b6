"""The first commands: `init` looks at images and writes a file that works; `predict` needs no flow."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from flows.cli.app import app
from flows.cli.begin import _as_yaml
from resnet_core.errors import UserError
from resnet_core.model.classifier import Classifier
from resnet_core.storage.names import fold_label
from tasks.dataset import AUTO, Dataset, load_dataset
from tasks.survey.survey import Survey


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("GRAYLINE_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), terminal_width=200)


def draw(folder: Path, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (40, 50), np.uint8)).save(folder / f"{number}.png")


def survey_of(classes: dict[str, int], median: int) -> Survey:
    sides = (median, median, median)
    settled = Dataset(name="x", source="x").settled({"train.augment.flips": "none"}, "")
    return Survey("x", None, (), sum(classes.values()), 0, 0, classes, (), sides, {}, {}, 1.0, None, settled)


def test_init_writes_a_data_set_file_that_is_valid_and_says_why(tmp_path: Path) -> None:
    draw(tmp_path / "My Parts" / "good", 30, 0)
    draw(tmp_path / "My Parts" / "scratch", 12, 1)
    (tmp_path / "My Parts" / "Thumbs.db").write_bytes(b"x")
    done = run("init", "My Parts", "--yes")
    assert done.exit_code == 0, done.output
    found = load_dataset("data/my-parts.yaml")
    assert (found.name, found.source, found.auto) == ("my-parts", "My Parts", set(AUTO))
    assert found.gate.metric == "macro_f1"
    for words in (
        "2: 'good' 30, 'scratch' 12",
        "71%",
        "40 to 40 px",
        "PNG 8-bit gray",
        "left out",
        "image size 40 px",
        "width 16 (",
        "A first night takes",
    ):
        assert words in done.output, done.output
    assert not (tmp_path / "store").exists()
    again = run("init", "My Parts", "--yes")
    assert isinstance(again.exception, UserError)
    assert "is there already" in str(again.exception)


def test_init_finds_the_table_of_labels_and_not_another_table(tmp_path: Path) -> None:
    draw(tmp_path / "scans", 20, 0)
    lines = ['path,label,"line\nname: evil"', *(f"{n}.png,{'ok' if n % 2 else 'torn'},7" for n in range(20))]
    (tmp_path / "scans" / "truth.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "scans" / "prices.csv").write_text("part,price\na,1\n")
    done = run("init", "scans", "--yes", "--output", "s.yaml", "--name", "paper")
    assert done.exit_code == 0, done.output
    found = load_dataset("s.yaml")
    assert (found.name, found.labels) == ("paper", "scans/truth.csv")
    assert "path, label, line\\nname: evil" in done.output


def test_init_says_which_table_it_takes_and_which_it_leaves_out(tmp_path: Path) -> None:
    for label in ("ok", "torn"):
        draw(tmp_path / "scans" / label, 10, len(label))
    (tmp_path / "scans" / "old.csv").write_text("path,label\nelsewhere/1.png,ok\nelsewhere/2.png,torn\n")
    done = run("init", "scans", "--yes", "-o", "by-folder.yaml")
    assert "scans/old.csv is left out, and the folders are the classes" in done.output
    assert load_dataset("by-folder.yaml").labels is None
    rows = [f"{label}/{n}.png,{'a' if n % 2 else 'b'}\n" for label in ("ok", "torn") for n in range(10)]
    (tmp_path / "scans" / "new.csv").write_text("path,label\n" + "".join(rows))
    done = run("init", "scans", "--yes", "-o", "by-table.yaml")
    assert "scans/new.csv, scans/old.csv: the first is taken. --labels names another" in done.output
    assert load_dataset("by-table.yaml").labels == "scans/new.csv"
    done = run("init", "scans", "--yes", "-o", "named.yaml", "--labels", "scans/old.csv")
    assert isinstance(done.exception, UserError)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: there is no such folder. Correct the path."),
        (["flat"], "a classifier needs two classes or more, found none. Put images into one folder a class"),
        (["flat", "--name", "Zwei Wörter"], "--name: 'Zwei Wörter' cannot name a model"),
        (["empty"], "empty: holds no images. Fill it, or correct"),
    ],
)
def test_init_refuses_with_the_remedy_and_writes_nothing(tmp_path: Path, words: list[str], message: str) -> None:
    draw(tmp_path / "flat", 3, 0)
    (tmp_path / "empty").mkdir()
    done = run("init", *words, "--yes")
    assert isinstance(done.exception, UserError), done.output
    assert message in str(done.exception)
    assert not (tmp_path / "data").exists()


def test_the_version_and_what_to_do_first() -> None:
    assert run("--version").output.startswith("grayline ")
    assert "grayline init FOLDER" in run().output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_options(shell: str) -> None:
    """As the shell's own script asks: it sets these variables and runs `grayline`."""

    def ask(line: str) -> str:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1), "_TYPER_COMPLETE_ARGS": line}
        env = {
            **os.environ,
            **words,
            "_GRAYLINE_COMPLETE": f"complete_{shell}",
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        }
        done = subprocess.run([sys.executable, "-m", "grayline"], env=env, capture_output=True, text=True, check=False)
        assert done.stderr == ""
        return done.stdout

    assert "predict" in ask("grayline pre")
    assert "--dataset" in ask("grayline retrain --")


def test_a_folder_for_a_data_set_file_is_answered_by_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(tmp_path / "Parts" / "good", 12, 0)
    draw(tmp_path / "Parts" / "scratch", 12, 1)
    done = run("retrain", "--dataset", "Parts")
    assert isinstance(done.exception, UserError)
    assert str(done.exception) == "Parts: is a folder. Make a data set file of it by `grayline init Parts`."
    ran: list[str] = []
    monkeypatch.setattr("flows.cli.stages._retrain", lambda dataset, until: ran.append(dataset))
    monkeypatch.setattr("flows.cli.stages.sys", type("Sys", (), {"stdin": type("Tty", (), {"isatty": lambda: True})}))
    done = CliRunner().invoke(app, ["retrain", "--dataset", "Parts"], input="y\nn\nscratch\n", terminal_width=200)
    assert ran == ["data/parts.yaml"], done.output
    found = load_dataset("data/parts.yaml")
    assert (found.source, found.evaluate.recall, found.train.augment.flips) == ("Parts", {"scratch": 0.95}, "none")


@pytest.fixture
def _digits_version(monkeypatch: pytest.MonkeyPatch, classifier: Classifier) -> None:
    """Put a classifier in place of a registered version: the registry has its own tests."""
    from tasks.values import ModelVersion

    monkeypatch.setattr("flows.cli.predict.check_there", lambda settings: None)
    version = ModelVersion("parts", "3", "")
    monkeypatch.setattr("tasks.registry.direct.load", lambda uri, model, device: (version, classifier))


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    from resnet_core.images.preprocessing import Preprocessing
    from resnet_core.model.inputs import Normalisation
    from resnet_core.model.resnet import ModelConfig, build

    config = ModelConfig("resnet10", 16)
    network = build(config, size=8, classes=2).eval()
    return Classifier(network, config, ("ok", "torn"), Preprocessing(8), Normalisation(0.5, 0.2))


@pytest.mark.usefixtures("_digits_version")
def test_predict_prints_a_row_per_image_and_says_which_it_could_not_read(tmp_path: Path) -> None:
    draw(tmp_path / "new", 2, 0)
    (tmp_path / "notes.png").write_text("no image")
    done = run("predict", "new/0.png", "notes.png", "new")
    assert done.exit_code == 0, done.output
    assert "parts version 3" in done.output
    assert "4 images: 0 to look at, 1 not read" in done.output
    lines = run("predict", "new/0.png", "notes.png", "--json").output.splitlines()
    first, second = (json.loads(line) for line in lines)
    assert (first["image"], first["label"] in ("ok", "torn"), set(first["probabilities"])) == (
        "new/0.png", True, {"ok", "torn"},
    )  # fmt: skip
    assert (second["image"], second["label"], second["reason_code"]) == ("notes.png", None, "not_an_image")


@pytest.mark.usefixtures("_digits_version")
def test_predict_of_nothing_that_can_be_read_fails(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no image")
    assert run("predict", "notes.png").exit_code == 1
    (tmp_path / "list.csv").write_text("path\na.png\n")
    for place, words in (("list.csv", "classify-batch"), ("none.png", "there is no such file. Correct the path.")):
        done = run("predict", place)
        assert isinstance(done.exception, UserError)
        assert words in str(done.exception)


@pytest.mark.parametrize("name", ["a\nsource: /etc", 'a"}}\n', "\x1b[2J", "\x9b2J: #", "\u202e# x", "=cmd|' /C'!A0"])
def test_names_of_columns_and_classes_do_not_become_settings(tmp_path: Path, name: str) -> None:
    found = replace(survey_of({name: 90, "b": 30}, 40), labels=f"{name}.csv", columns=("path", name))
    (tmp_path / "few.yaml").write_text(_as_yaml(found, "few", name, None), encoding="utf-8")
    data = load_dataset(tmp_path / "few.yaml")
    assert (data.source, data.labels, data.evaluate.recall) == ("x", f"{name}.csv", {fold_label(name): 0.95})
