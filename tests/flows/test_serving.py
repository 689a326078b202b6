"""A version behind MLflow's server: files in base64, paths and arrays, decoded as in a batch; asked by HTTP."""

import base64
import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import uvicorn
import yaml
from mlflow.pyfunc import scoring_server
from PIL import Image

from flows.nightly_retrain import nightly_retrain
from resnet_core.inference.single import predict_images
from tasks.registry.versions import load_classifier
from tasks.settings import Settings
from tests.conftest import write_folder
from tests.versions import Digits


@pytest.fixture(scope="module")
def version(prefect: None, tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Iterator[tuple[Path, Any, Any]]:
    """A registered version: its images, its classifier, and the model as MLflow loads it."""
    folder = tmp_path_factory.mktemp("serving")
    source = write_folder(folder / "raw", digits, range(3), 120)
    content = {
        "name": "few", "source": str(source), "image": {"size": 8, "levels": 16},
        "model": {"arch": "resnet10", "width": 16},
        "train": {"epochs": 2, "batch_size": 32, "augment": {"flips": "none"}},
    }  # fmt: skip
    (folder / "few.yaml").write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("GRAYLINE_STORE", str(folder / "store"))
        night = nightly_retrain(str(folder / "few.yaml"), until="register")
        assert night.version
        mlflow.set_tracking_uri(Settings().tracking_uri)
        yield (
            folder,
            load_classifier(Settings().tracking_uri, night.version, "cpu"),
            mlflow.pyfunc.load_model("models:/few/1"),
        )


def files() -> list[bytes]:
    """A gray PNG, the same of 16 bits, one with alpha, a JPEG that EXIF turns. Then floats without a scale, and no
    image.
    """
    levels = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    made = []
    for image, kind, exif in (
        (Image.fromarray(levels), "PNG", None),
        (Image.fromarray(levels.astype(np.uint16) * 257), "PNG", None),
        (Image.fromarray(np.dstack([levels] * 3 + [255 - levels])), "PNG", None),
        (Image.fromarray(levels), "JPEG", turned),
        (Image.fromarray(levels.astype(np.float32)), "TIFF", None),
    ):
        buffer = io.BytesIO()
        image.save(buffer, kind, **({"exif": exif} if exif else {}))
        made.append(buffer.getvalue())
    return [*made, b"no image"]


@pytest.fixture
def ask(version: tuple[Path, Any, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """MLflow's own server of the model; a function that posts to it."""
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    server = uvicorn.Server(uvicorn.Config(scoring_server.init(version[2]), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]

    def post(body: Any) -> list[dict[str, Any]]:
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), head)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["predictions"]

    yield post
    server.should_exit = True
    thread.join()


def assert_as_in_a_batch(rows: list[dict[str, Any]], classifier: Any, images: list[Any]) -> None:
    for row, wanted in zip(rows, predict_images(classifier, images), strict=True):
        assert (row["label"], row["reason_code"]) == (wanted.label, wanted.reason_code), wanted
        if wanted.label is not None:
            assert row["confidence"] == pytest.approx(wanted.confidence, abs=1e-5)


def test_files_in_base64_are_decoded_as_in_a_batch(version: tuple[Path, Any, Any], ask: Any) -> None:
    texts = [base64.b64encode(data).decode() for data in files()]
    rows = ask({"inputs": texts})
    assert_as_in_a_batch(rows, version[1], files())
    assert [row["reason_code"] for row in rows] == [None, None, None, None, "levels_unknown", "not_an_image"]
    assert rows[0] == rows[1]  # 16 bits are scaled, not cut off
    assert ask({"dataframe_split": {"columns": ["image"], "data": [[text] for text in texts]}}) == rows


def test_arrays_of_one_size_and_of_several(version: tuple[Path, Any, Any], ask: Any) -> None:
    several = [np.random.default_rng(n).integers(0, 256, (8 + n, 12), np.uint8) for n in range(3)]
    assert_as_in_a_batch(ask({"inputs": [several[1].tolist()] * 2}), version[1], [several[1]] * 2)
    rows = ask({"dataframe_records": [{"image": each.tolist()} for each in several]})
    assert_as_in_a_batch(rows, version[1], several)
    with pytest.raises(urllib.error.HTTPError) as error:
        ask({"inputs": np.zeros((4, 8, 3), int).tolist()})
    assert error.value.code == 400
    assert b"a single image with channels" in error.value.read()


def test_a_server_reads_named_files_in_named_folders_alone(
    version: tuple[Path, Any, Any], ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, classifier, _ = version
    path = next((folder / "raw").rglob("*.png"))
    (row,) = ask({"inputs": [str(path)]})
    assert (row["label"], row["reason_code"]) == (None, "unreachable")
    monkeypatch.setenv("GRAYLINE_MANIFEST_ROOTS", str(folder / "raw"))
    assert_as_in_a_batch(ask({"inputs": [str(path)]}), classifier, [str(path)])
    (row,) = ask({"inputs": [str(folder / "raw" / ".." / "few.yaml")]})
    assert row["reason_code"] == "unreachable"


def test_python_takes_bytes_paths_and_arrays_at_once(version: tuple[Path, Any, Any]) -> None:
    folder, classifier, model = version
    path = str(next((folder / "raw").rglob("*.png")))
    images = [files()[0], path, np.zeros((9, 9), np.uint8), files()[4]]
    rows = model.predict(images).to_dict("records")
    assert_as_in_a_batch(rows, classifier, images)
