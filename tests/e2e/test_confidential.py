"""Nothing gets out: secrets and confidential images are planted, and every file, line and process is searched.

A night and a batch run on an encrypted data set behind passwords and signatures; a batch is killed in the middle.
"""

import base64
import http.server
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from PIL import Image

pytestmark = pytest.mark.e2e

_SIZE = 16  # px, as in the data set file: pixels in the shards are those of the files
_KEY = os.urandom(32)
_TEMPORARY = Path("/tmp")
_OWN = ("few.yaml", "killed.yaml")  # the data set files, in which a person may write a password
SECRETS = {
    "password of the source": "opensesame77",
    "signature of the labels": "c2lnbmF0dXJl99",
    "password of the corrections": "zweitens88",
    "password in a cell": "drittens66",
    "password of a sink": "viertens55",
    "password of the store": "fuenftens44",
    "password of MLflow": "sechstens33",
    "a key in the place of its path": "MHcCAQEEIPlantedKey22",
    "S3's secret key": "wJalrXUtnFEMI/K7MDENG",
    "encryption key": base64.b64encode(_KEY).decode(),
}
_AUTH = {
    "/guarded/": f"me:{SECRETS['password of the source']}",
    "/corrected/": f"you:{SECRETS['password of the corrections']}",
}


@dataclass
class _Plant:
    """The folders of a run, and what must be nowhere in them. `patterns`: of pixels and of files, by image."""

    www: Path
    work: Path
    host: str = ""
    patterns: dict[str, bytes] = field(default_factory=dict)
    lines: set[str] = field(default_factory=set)
    before: frozenset[Path] = field(default_factory=lambda: frozenset(_TEMPORARY.iterdir()))

    def image(self, number: int) -> bytes:
        """Return a PNG of noise, whose rows and bytes are in no other file."""
        pixels = np.random.default_rng(number).integers(0, 256, (_SIZE, _SIZE), np.uint8)
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "PNG")
        self.patterns |= {f"pixels {number}": pixels[5].tobytes(), f"file {number}": data.getvalue()[60:100]}
        return data.getvalue()

    def archive(self, name: str, numbers: range) -> None:
        path = self.www / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w:gz") as archive:
            for number in numbers:
                data = self.image(number)
                info = tarfile.TarInfo(f"{number % 2}/{number}.png")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))

    def run(self, *command: str, kill_at: str = "", **more: str) -> tuple[int, str]:
        """Run `grayline`, keep what it prints and the command lines of its processes; end it by SIGKILL at a line."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("GRAYLINE", "PREFECT", "MLFLOW"))}
        env = inherited | {
            "TMPDIR": str(self.work / "tmp"),
            "GRAYLINE_KEYS": f"k1 = {SECRETS['encryption key']}",
            "GRAYLINE_ALLOWED_PROTOCOLS": "file, http",
            "GRAYLINE_PRIVATE_HOSTS": "127.0.0.1",
            "AWS_ACCESS_KEY_ID": "AKIAPLANTED",
            "AWS_SECRET_ACCESS_KEY": SECRETS["S3's secret key"],
            **more,
        }
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "grayline"), *command], cwd=self.work, env=env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        watching = threading.Thread(target=self._watch, args=(process.pid,), daemon=True)
        watching.start()
        printed = []
        assert process.stdout
        for line in process.stdout:
            printed.append(line)
            if kill_at and line.startswith(kill_at):
                time.sleep(0.3)
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
        watching.join()
        return status, "".join(printed)

    def _watch(self, pid: int) -> None:
        """Note the command lines of all processes below; that of the command itself is the person's own."""
        with suppress(psutil.NoSuchProcess):
            whole = psutil.Process(pid)
            own = whole.cmdline()  # that of a fork, too, until it has become another program
            while whole.is_running() and whole.status() != psutil.STATUS_ZOMBIE:
                for child in whole.children(recursive=True):
                    with suppress(psutil.Error):
                        if (line := child.cmdline()) != own:
                            self.lines.add(" ".join(line))
                time.sleep(0.02)

    def leaks(self, printed: str) -> list[str]:
        """Return what was found, and where."""
        needles = {name: text.encode() for name, text in SECRETS.items()} | {"raw encryption key": _KEY} | self.patterns
        places = {"the terminal": printed.encode(), "a process": "\n".join(self.lines).encode()}
        new = [path for path in _TEMPORARY.iterdir() if path not in self.before and "pytest" not in path.name]
        for top in (self.work, Path("/dev/shm"), *new):
            for path in (top, *top.rglob("*")):
                with suppress(OSError):  # of another user, encrypted, or gone: other tests write there, too
                    if path.is_file() and path.name not in _OWN and path.stat().st_uid == os.getuid():
                        places[str(path)] = path.read_bytes()
                        if path.suffix == ".parquet":
                            places[f"rows of {path}"] = pd.read_parquet(path).to_csv().encode()
        return sorted(
            f"{name} in {place}" for name, text in needles.items() for place in places if text in places[place]
        )


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Plant]:
    """A web server with an archive, labels and corrections, and an encrypted data set of them."""
    planted = _Plant(tmp_path_factory.mktemp("www"), tmp_path_factory.mktemp("work"))
    (planted.work / "tmp").mkdir()

    class Guard(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *how: object) -> None:
            super().__init__(*how, directory=str(planted.www))  # type: ignore[arg-type]

        def log_message(self, *how: object) -> None:
            pass

        def send_head(self) -> object:  # type: ignore[override]
            for begin, user in _AUTH.items():
                if self.path.startswith(begin):
                    wanted = "Basic " + base64.b64encode(user.encode()).decode()
                    if self.headers.get("Authorization") != wanted:
                        return self.send_error(401)
            if self.path.startswith("/signed/") and f"sig={SECRETS['signature of the labels']}" not in self.path:
                return self.send_error(403)
            return super().send_head()

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Guard)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    planted.host = f"127.0.0.1:{web.server_port}"
    planted.archive("guarded/train.tar.gz", range(60))
    planted.archive("guarded/new.tar.gz", range(100, 120))
    planted.archive("guarded/many.tar.gz", range(200, 1700))
    for folder in ("signed", "corrected"):
        (planted.www / folder).mkdir()
    cell = f"http://u:{SECRETS['password in a cell']}@h/1.png"
    rows = "".join(f"{number % 2}/{number}.png,{'ab'[number % 2]},{cell}\n" for number in range(60))
    (planted.www / "signed" / "labels.csv").write_text(f"path,label,seen_at\n{rows}")
    source = f"tar://1/1.png::http://{planted.host}/guarded/train.tar.gz"
    (planted.www / "corrected" / "c.csv").write_text(f"path,label\n{source},a\n")
    content = {
        "name": "few",
        "source": f"http://{_AUTH['/guarded/']}@{planted.host}/guarded/train.tar.gz",
        "labels": f"http://{planted.host}/signed/labels.csv?sig={SECRETS['signature of the labels']}&se=2030",
        "corrections": f"http://{_AUTH['/corrected/']}@{planted.host}/corrected/c.csv",
        "encrypt": True,
        "image": {"size": _SIZE},
        "model": {"arch": "resnet10", "width": 16},
        "train": {"epochs": 1},
        "gate": {"minimum": 0.0},
    }
    for name in _OWN:
        (planted.work / name).write_text(yaml.safe_dump(content | {"name": name.partition(".")[0]}))
    yield planted
    web.shutdown()


def test_a_night_and_a_batch_leave_no_secret_and_no_image(plant: _Plant) -> None:
    status, printed = plant.run("retrain", "--dataset", "few.yaml")
    assert status == 0, printed
    assert not plant.leaks(printed)
    source = f"http://{_AUTH['/guarded/']}@{plant.host}/guarded/new.tar.gz"
    status, printed = plant.run("classify-batch", "--source", source, "--output", "out")
    assert status == 0, printed
    assert not plant.leaks(printed)
    rows = pd.read_parquet(plant.work / "out")
    assert len(rows) == 20
    assert rows["embedding"].isna().all()
    assert rows["uri"].str.endswith(f"::http://{plant.host}/guarded/new.tar.gz").all()

    status, printed = plant.run("gallery", "out")
    assert (status, printed.count("\n")) == (2, 1)
    assert "--in-clear" in printed
    status, printed = plant.run("classify-batch", "--source", source, "--output", "out", "--embeddings")
    assert (status, "--embeddings" in printed) == (2, True), printed


@pytest.mark.heavy
def test_a_killed_night_leaves_no_image(plant: _Plant) -> None:
    status, printed = plant.run("retrain", "--dataset", "killed.yaml", kill_at="preprocess")
    assert status == -signal.SIGKILL, printed
    assert list((plant.work / "data/store/pixels/killed").glob("*/*.parquet"))
    assert not plant.leaks(printed)


@pytest.mark.heavy
def test_a_killed_batch_leaves_no_image(plant: _Plant) -> None:
    source = f"http://{_AUTH['/guarded/']}@{plant.host}/guarded/many.tar.gz"
    status, printed = plant.run(
        "classify-batch", "--source", source, "--output", "killed", "--engine", "torch", kill_at="engine"
    )
    assert status == -signal.SIGKILL, printed
    assert not plant.leaks(printed)


def test_what_does_not_answer_shows_no_secret(plant: _Plant) -> None:
    sink = f"postgresql://u:{SECRETS['password of a sink']}@127.0.0.1:1/d"
    (plant.work / "one").mkdir()
    (plant.work / "one" / "1.png").write_bytes(plant.image(5000))
    plant.patterns.clear()  # that image is no one's secret
    status, printed = plant.run("classify-batch", "--source", "one", "--to", sink)
    assert (status, "127.0.0.1" in printed) == (2, True), printed
    assert not plant.leaks(printed)
    store = f"ftp://me:{SECRETS['password of the store']}@127.0.0.1:1/s"
    key = f"-----BEGIN EC PRIVATE KEY-----\n{SECRETS['a key in the place of its path']}\n-----END EC PRIVATE KEY-----"
    mlflow = f"http://me:{SECRETS['password of MLflow']}@127.0.0.1:9"
    keys = {"GRAYLINE_VERIFY_KEY": key, "GRAYLINE_SIGNING_KEY": key}
    status, printed = plant.run("doctor", GRAYLINE_STORE=store, MLFLOW_TRACKING_URI=mlflow, **keys)
    assert status == 1, printed
    assert "GRAYLINE_SIGNING_KEY: holds a key itself" in printed
    assert "Traceback" not in printed
    assert not plant.leaks(printed)
