"""Real images, a store of its own for each test, and one Prefect for the whole session."""

import csv
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

SEED = os.environ.get("TEST_SEED", "")  # draws one heavy test in three; empty: all run
# Before anything imports Prefect: no test touches the user's home, servers or settings.
SESSION = Path(tempfile.mkdtemp(prefix="grayline-tests-"))
for name in [name for name in os.environ if name.startswith(("GRAYLINE_", "PREFECT_", "MLFLOW_"))]:
    del os.environ[name]
# Code is compiled beside its source, as on a user's machine: a version must do with that.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["GRAYLINE_STORE"] = str(SESSION / "store")
os.environ["GRAYLINE_ALLOWED_PROTOCOLS"] = "file, s3, gs, abfs, https, memory"  # the file system of many tests

from resnet_core.storage import compressed  # noqa: E402
from tasks.settings import (  # noqa: E402
    Settings,
    check_store,
    prepare_environment,
)

prepare_environment()
check_store(Settings().root)


def pytest_report_header() -> str:
    return f"heavy tests: one in three, drawn by TEST_SEED={SEED}" if SEED else "heavy tests: all"


def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """Skip what is not drawn. Seconds before minutes; in several processes the other way round, so that none waits."""
    for item in items:
        if SEED and item.get_closest_marker("heavy") and crc32(f"{SEED} {item.nodeid}".encode()) % 3:
            item.add_marker(pytest.mark.skip(reason=f"not drawn by TEST_SEED={SEED}"))
    many = hasattr(config, "workerinput")
    items.sort(key=lambda item: (item.get_closest_marker("e2e") is not None) != many)


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, list[str]]:
    """scikit-learn's handwritten digits: uint8 [1797, 8, 8] and their labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return np.rint(found.images * (255 / 16)).astype(np.uint8), [str(label) for label in found.target]


@pytest.fixture(scope="session")
def photograph() -> Image.Image:
    """A real colour photograph, 512 x 512."""
    from skimage import data

    return Image.fromarray(data.astronaut())


@pytest.fixture
def digit_folder(tmp_path: Path, digits: tuple[np.ndarray, list[str]]) -> Path:
    """200 digits of ten classes, one folder a class."""
    return write_folder(tmp_path / "digits", digits, range(10), 200)


def write_folder(to: Path, digits: tuple[np.ndarray, list[str]], classes: range, count: int, start: int = 0) -> Path:
    """`count` digits from `start` on as PNG files in one folder a class."""
    images, labels = digits
    wanted = {str(k) for k in classes}
    for number in [k for k, label in enumerate(labels) if label in wanted][start : start + count]:
        path = to / labels[number] / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[number]).save(path)
    return to


def write_labels(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def prefect() -> Iterator[None]:
    """Prefect's embedded server, started once: it takes 10 seconds."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(autouse=True)
def not_confidential() -> None:
    """No test before has said for this one that the images of the process are confidential."""
    compressed._private.clear()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store that the settings point to."""
    folder = tmp_path / "store"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow itself sets it, once it is used
    monkeypatch.setenv("GRAYLINE_STORE", str(folder))
    return folder
