"""The real commands, each in a process of its own: what a person types, and what they get."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml

from tasks.store import LAYOUT
from tests.browser import chromium
from tests.conftest import write_folder
from tests.hostile import ask, hostile_page
from tests.hostile_names import LIVE
from tests.outbound import addresses, watched
from tests.tasks.batch.test_score import break_some

pytestmark = pytest.mark.e2e

BIN = Path(sys.executable).parent
HOME = Path(__file__).parents[2]
WATCH = Path(tempfile.mkdtemp(prefix="grayline-watch-"))  # the connections of every command of this file


def run(*command: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """A command in a folder of its own, with nothing of ours or of the session in its environment."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("GRAYLINE", "PREFECT", "MLFLOW"))
    }
    return watched([str(BIN / command[0]), *command[1:]], WATCH, cwd, {**clean, **env})


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str], float]:
    """`grayline demo --dataset digits` in an empty folder: where, what it printed, how long it took."""
    folder = tmp_path_factory.mktemp("demo")
    started = time.monotonic()
    return folder, run("grayline", "demo", "--dataset", "digits", cwd=folder), time.monotonic() - started


Demo = tuple[Path, subprocess.CompletedProcess[str], float]


def test_the_demo_goes_from_files_to_a_champion_and_a_scored_batch(demo: Demo) -> None:
    folder, done, _ = demo
    assert done.returncode == 0, done.stderr
    assert "version 1 is the new champion" in done.stdout
    assert "1,797 scored, 0 failed" in done.stdout
    store = folder / "data" / "store"
    assert len(pd.read_parquet(store / "catalog" / "digits")) == 1797
    (shards,) = (store / "shards" / "digits").iterdir()
    assert len(pd.read_parquet(shards)) == 1797
    assert {path.name for path in store.iterdir()} <= {place.path.split("/")[0] for place in LAYOUT}
    (batch,) = (store / "scores").iterdir()
    assert len(pd.read_parquet(batch)) == 1797
    (metrics,) = (store / "runs" / "digits").glob("*/evaluation/metrics.json")
    assert json.loads(metrics.read_text())["metrics"]["accuracy"]["value"] >= 0.98
    assert "Traceback" not in done.stderr


def test_a_second_retrain_redoes_nothing_and_says_so(demo: Demo) -> None:
    done = run("grayline", "retrain", "--dataset", str(HOME / "data" / "digits.yaml"), cwd=demo[0])
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "nothing was read again" in said
    assert "all reused" in said
    assert "reused: data, settings and code are unchanged" in said
    assert "nothing has changed; version 1 stays the champion" in said


def test_five_broken_files_among_fifty_are_five_of_fifty_rows(demo: Demo, digits: tuple[np.ndarray, list[str]]) -> None:
    folder = demo[0]
    write_folder(folder / "fifty", digits, range(10), 45)
    broken = break_some(folder / "fifty")
    done = run("grayline", "classify-batch", "--source", "fifty", "--output", "scores50", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "45 scored, 5 failed" in done.stdout
    rows = pd.read_parquet(folder / "scores50")
    assert len(rows) == 50
    assert {Path(uri).name for uri in rows.loc[rows["status"] == "failed", "uri"]} == broken
    assert rows.loc[rows["status"] == "failed", "reason"].notna().all()


@pytest.fixture(scope="module")
def stack(demo: Demo) -> Iterator[dict[str, str]]:
    """`grayline up` on free ports, over the demo's store; `grayline down` afterwards."""
    ports = {"GRAYLINE_PREFECT_PORT": free_port(), "GRAYLINE_MLFLOW_PORT": free_port()}
    up = run("grayline", "up", cwd=demo[0], **ports)
    try:
        assert up.returncode == 0, up.stderr
        assert f"http://127.0.0.1:{ports['GRAYLINE_PREFECT_PORT']}" in up.stdout
        assert f"http://127.0.0.1:{ports['GRAYLINE_MLFLOW_PORT']}" in up.stdout
        yield ports
    finally:
        run("grayline", "down", cwd=demo[0], **ports)


def test_a_deployment_runs_through_the_server_and_the_worker(
    demo: Demo, stack: dict[str, str], digits: tuple[np.ndarray, list[str]]
) -> None:
    folder = demo[0]
    write_folder(folder / "some", digits, range(10), 60)
    parameters = ("--param", f"source={folder / 'some'}", "--param", f"output={folder / 'by-worker'}")
    done = run("prefect", "deployment", "run", "classify-batch/classify-batch", *parameters, "--watch", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(pd.read_parquet(folder / "by-worker")) == 60
    ours = run("grayline", "run", "classify-batch", "--param", "source=some", "--param", "output=by-name", cwd=folder)
    assert ours.returncode == 0, ours.stdout + ours.stderr
    assert len(pd.read_parquet(folder / "by-name")) == 60
    failed = run("grayline", "run", "classify-batch", "--param", "source=none", "--param", "output=no", cwd=folder)
    assert failed.returncode == 1
    deployed = run("grayline", "deploy", cwd=folder)  # to the server that prefect.toml names
    assert deployed.returncode == 0, deployed.stderr
    assert "deployments on http://127.0.0.1:" in deployed.stdout


def test_mlflows_rest_interface_has_the_version_and_its_alias(demo: Demo, stack: dict[str, str]) -> None:
    base = f"http://127.0.0.1:{stack['GRAYLINE_MLFLOW_PORT']}/api/2.0/mlflow"
    password = f"grayline:{(demo[0] / 'data' / 'store' / 'stack' / 'password').read_text()}"
    version = ask(f"{base}/registered-models/alias?name=digits&alias=champion", password)["model_version"]
    assert (version["name"], version["version"], version["status"]) == ("digits", "1", "READY")
    tags = {tag["key"]: tag["value"] for tag in version["tags"]}
    assert tags["grayline.gate"].startswith("passed")
    assert "gate" in tags["grayline.champion_reason"]


@contextmanager
def signed_in(prefect: str, mlflow: str, password: str) -> Iterator[tuple[Any, list[str]]]:
    """Yield a browser whose user has entered both passwords, and a list that gets the addresses that it asks."""
    with chromium("--host-resolver-rules=MAP *.example 127.0.0.1") as browser:
        own = {"username": "grayline", "password": password.partition(":")[2], "origin": mlflow}
        context = browser.new_context(http_credentials=own)
        asked: list[str] = []
        context.on("request", lambda request: asked.append(request.url))
        # Before any script of Prefect's own: its page forgets the password at an answer to what it asked without it.
        keep = f"localStorage.setItem('prefect-password', btoa({json.dumps(password)}))"
        context.add_init_script(f"if (location.origin === {json.dumps(prefect)}) {keep}")
        yield context, asked


def test_a_page_of_another_origin_reads_nothing_and_runs_nothing(
    demo: Demo, stack: dict[str, str], tmp_path: Path
) -> None:
    """In a real browser, whose user has entered both passwords: by fetch, form, frame, image, script, web socket."""
    prefect, mlflow = (f"http://127.0.0.1:{stack[f'GRAYLINE_{name}_PORT']}" for name in ("PREFECT", "MLFLOW"))
    password = f"grayline:{(demo[0] / 'data' / 'store' / 'stack' / 'password').read_text()}"
    deployment = next(d for d in ask(f"{prefect}/api/deployments/filter", password, {}) if d["name"] == "promote")
    before = ask(f"{prefect}/api/flow_runs/count", password, {})
    with (
        hostile_page(prefect, mlflow, deployment["id"], f"touch {tmp_path / 'pwned'}") as port,
        signed_in(prefect, mlflow, password) as (context, asked),
    ):
        page = context.new_page()
        page.goto(mlflow)
        page.get_by_text("Recent Experiments").wait_for(timeout=120_000)
        with page.expect_response(lambda answer: "/api/deployments" in answer.url and answer.ok, timeout=120_000):
            page.goto(f"{prefect}/deployments")
        assert [url for url in asked if not url.startswith((prefect, mlflow, "data:", "blob:"))] == []
        for host in ("127.0.0.1", "localhost", "evil.example"):
            page.goto(f"http://{host}:{port}")
            assert {name: read for name, read in page.evaluate("window.all()").items() if read is not None} == {}, host
        for address in (prefect, mlflow):  # a name of the page's own that now leads to this machine
            assert page.goto(address.replace("127.0.0.1", "rebound.example")).status == 403
    assert ask(f"{prefect}/api/flow_runs/count", password, {}) == before
    models = ask(f"{mlflow}/api/2.0/mlflow/registered-models/search", password)["registered_models"]
    assert [model["name"] for model in models] == ["digits"]
    assert not (tmp_path / "pwned").exists()


def test_names_are_text_on_the_live_pages_of_both_servers(demo: Demo, stack: dict[str, str], tmp_path: Path) -> None:
    prefect, mlflow = (f"http://127.0.0.1:{stack[f'GRAYLINE_{name}_PORT']}" for name in ("PREFECT", "MLFLOW"))
    password = f"grayline:{(demo[0] / 'data' / 'store' / 'stack' / 'password').read_text()}"
    servers = {"PREFECT_API_URL": f"{prefect}/api", "MLFLOW_TRACKING_URI": mlflow, "PYTHONPATH": str(HOME)}
    done = run("python", "-m", "tests.hostile_names", str(tmp_path), cwd=demo[0], **servers, **stack)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout.splitlines()[-1])
    latest = ask(f"{prefect}/api/artifacts/latest/filter", password, {})  # the demo has made a "gate", too
    artifacts = {each["key"]: each["latest_id"] for each in latest}
    pages = {  # by the address, a text that is there once the page is whole
        f"{prefect}/artifacts/artifact/{artifacts['names-page']}": "window.pwned=2",
        f"{prefect}/artifacts/artifact/{artifacts['gate']}": "window.pwned=2",
        f"{prefect}/artifacts": "names-page",
        f"{prefect}/v2/artifacts/artifact/{artifacts['gate']}": "window.pwned=2",
        f"{mlflow}/#/models/names": "window.pwned=2",
        f"{mlflow}/#/models/names/versions/{made['version']}": "window.pwned=2",
        f"{mlflow}/#/experiments/{made['experiment']}/runs/{made['run']}": "window.pwned=2",
        f"{mlflow}/#/experiments/{made['experiment']}/runs": "names",
    }
    with signed_in(prefect, mlflow, password) as (context, asked):
        page = context.new_page()
        page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
        for address, text in pages.items():
            page.goto("about:blank")
            page.goto(address)
            page.get_by_text(text).first.wait_for(timeout=60_000)
            assert page.evaluate(LIVE) == [], address
        assert [url for url in asked if not url.startswith((prefect, mlflow, "data:", "blob:", "about:"))] == []


def test_a_run_cannot_bring_a_command_an_environment_or_a_folder(
    demo: Demo, stack: dict[str, str], tmp_path: Path
) -> None:
    """Not even with the password."""
    api = f"http://127.0.0.1:{stack['GRAYLINE_PREFECT_PORT']}/api"
    password = f"grayline:{(demo[0] / 'data' / 'store' / 'stack' / 'password').read_text()}"
    deployment = next(d for d in ask(f"{api}/deployments/filter", password, {}) if d["name"] == "promote")
    for variables in ({"command": f"touch {tmp_path / 'pwned'}"}, {"env": {"PYTHONPATH": "/x"}}, {"working_dir": "/"}):
        body = {"parameters": {"name": "digits"}, "job_variables": variables}
        with pytest.raises(urllib.error.HTTPError) as error:
            ask(f"{api}/deployments/{deployment['id']}/create_flow_run", password, body)
        assert error.value.code == 422


def test_nothing_has_left_this_machine(demo: Demo, stack: dict[str, str]) -> None:
    """Every connection of a night, a batch, `make up`, its servers and its worker, by Python's hook and by strace."""
    by_python, by_system = addresses(WATCH)
    assert {("127.0.0.1", stack[name]) for name in stack} <= by_python  # the hook is there
    if by_system is not None:
        assert {("127.0.0.1", stack[name]) for name in stack} <= by_system
    assert {host for host, _ in by_python | (by_system or set())} <= {"127.0.0.1", "::1", "localhost"}


def test_all_files_are_the_users_alone(demo: Demo, stack: dict[str, str]) -> None:
    store = demo[0] / "data" / "store"
    open_to_others = [path for path in (store, *store.rglob("*")) if path.stat().st_mode & 0o077]
    # MLflow copies Grayline's own code into a version with the modes of the installation.
    assert [path for path in open_to_others if "code" not in path.parts and path.name != "served_model.py"] == []
    assert (demo[0] / "prefect.toml").stat().st_mode & 0o077 == 0
    password = (store / "stack" / "password").read_text()
    lines = [b" ".join(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")) for pid in psutil.pids()]
    assert not [line for line in lines if password.encode() in line]


def test_up_again_changes_nothing_and_down_ends_everything(demo: Demo, stack: dict[str, str]) -> None:
    again = run("python", "-m", "flows.stack", "up", cwd=demo[0], **stack)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("is running already") == 3
    down = run("python", "-m", "flows.stack", "down", cwd=demo[0], **stack)
    assert down.stdout.split() == ["worker", "stopped", "prefect", "stopped", "mlflow", "stopped"]
    assert not (demo[0] / "prefect.toml").exists()
    for port in stack.values():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(port))) != 0


def test_an_occupied_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run(
            "python",
            "-m",
            "flows.stack",
            "up",
            cwd=tmp_path,
            GRAYLINE_MLFLOW_PORT=port,
            GRAYLINE_PREFECT_PORT=free_port(),
        )
    assert_user_error(done, f"port {port} on 127.0.0.1 is occupied", "GRAYLINE_MLFLOW_PORT")
    assert sorted(path.name for path in tmp_path.rglob("*.json")) == ["_store.json", "up.json"]  # nothing was started


def assert_user_error(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Status 2, and one line on stderr that has the words."""
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


def data_set(folder: Path, **changes: object) -> Path:
    path = folder / "d.yaml"
    path.write_text(yaml.safe_dump({"name": "d", "source": str(folder / "raw"), **changes}))
    return path


@pytest.mark.parametrize(
    ("prepare", "changes", "words"),
    [
        ("nothing", {}, ("there is no such folder",)),
        ("empty", {}, ("holds no images",)),
        ("one class", {}, ("two classes or more", "'3'")),
        ("nothing", {"trian": {}}, ("trian: unknown key", "'train'")),
    ],
)
def test_a_wrong_data_set_is_one_line_and_nothing_half_written(
    tmp_path: Path,
    digits: tuple[np.ndarray, list[str]],
    prepare: str,
    changes: dict[str, object],
    words: tuple[str, ...],
) -> None:
    if prepare == "empty":
        (tmp_path / "raw").mkdir()
    elif prepare == "one class":
        write_folder(tmp_path / "raw", digits, range(3, 4), 5)
    done = run("grayline", "retrain", "--dataset", str(data_set(tmp_path, **changes)), cwd=tmp_path)
    assert_user_error(done, *words)
    made = tmp_path / "data" / "store"
    assert not [path for kind in ("catalog", "pixels", "shards", "runs") for path in (made / kind).rglob("*")]


def test_other_wrong_input_is_one_line_too(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.png").write_bytes(b"no image, but a file")
    (tmp_path / "file").write_text("")
    assert_user_error(run("grayline", "retrain", "--dataset", "no.yaml", cwd=tmp_path), "no.yaml: cannot be read")
    assert_user_error(run("grayline", "sample", "elvp", "--to", "x", cwd=tmp_path), "'elpv'")
    blocked = run("grayline", "promote", "elpv", cwd=tmp_path, GRAYLINE_STORE=str(tmp_path / "file" / "store"))
    assert_user_error(blocked, "GRAYLINE_STORE: nothing is registered yet in")
    rays = run("grayline", "doctor", cwd=tmp_path, GRAYLINE_RUNNER="rays")
    assert_user_error(rays, "GRAYLINE_RUNNER: must be one of threads, processes, ray")
    wrong = run("grayline", "classify-batch", "--source", "images", "--output", "o", "--model", "a@b", cwd=tmp_path)
    assert_user_error(wrong, "GRAYLINE_STORE: nothing is registered yet in", f"{tmp_path}/data/store")
    assert not (tmp_path / "o").exists()
    assert run("grayline", "clasify", cwd=tmp_path).returncode == 2


def test_doctor_passes_here_and_says_what_fails(tmp_path: Path) -> None:
    fine = run("grayline", "doctor", cwd=tmp_path)
    assert fine.returncode == 0, fine.stdout
    names = ["versions", "device", "store", "disk", "prefect", "mlflow", "nights", "signing"]
    assert [line.split()[1] for line in fine.stdout.splitlines() if line.startswith("ok ")] == names
    sick = run("grayline", "doctor", cwd=tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9", GRAYLINE_DEVICE="cuda:99")
    assert sick.returncode == 1
    assert "MLflow does not answer" in sick.stdout
    assert "GRAYLINE_DEVICE" in sick.stdout


def test_samples_are_the_real_data_sets_and_their_splits_do_not_depend_on_where(tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert run("grayline", "sample", "elpv", "--to", name, cwd=tmp_path).returncode == 0
    one, two = (pd.read_csv(tmp_path / name / "labels.csv", dtype=str) for name in ("one", "two"))
    assert one.equals(two)
    assert len(one) == len(list((tmp_path / "one" / "images").glob("*.png"))) == 2624
    defective = one["probability"].astype(float) > 0.5
    assert (one["label"] == np.where(defective, "defective", "functional")).all()
    held_out = one["split"] == "test"
    assert held_out.mean() == pytest.approx(0.25, abs=0.002)
    for _, stratum in one.assign(held_out=held_out).groupby(["type", "probability"]):
        assert abs(stratum["held_out"].sum() - len(stratum) / 4) <= 0.5
    soft = {label: str(text) for label, text in zip(one["probability"].str[:3], one["soft_label"], strict=True)}
    assert soft["0.3"] == "defective=0.33; functional=0.67"
    assert soft["0.6"] == "defective=0.67; functional=0.33"
    assert soft["0.0"] == soft["1.0"] == "nan"
    four = pd.read_csv(tmp_path / "one" / "labels4.csv", dtype=str)
    assert four[["path", "split"]].equals(one[["path", "split"]])
    assert set(zip(four["label"], one["probability"].str[:3], strict=True)) == {
        ("0", "0.0"), ("1/3", "0.3"), ("2/3", "0.6"), ("1", "1.0")
    }  # fmt: skip


def test_catalog_commands_show_the_versions(demo: Demo) -> None:
    log = run("grayline", "catalog", "log", cwd=demo[0])
    assert log.returncode == 0, log.stderr
    assert log.stdout.split()[4:8] == ["1", "1,797", "0", "0"]
    diff = run("grayline", "catalog", "diff", "0", "1", "--limit", "3", cwd=demo[0])
    assert diff.stdout.startswith("1,797 came, 0 went, 0 changed")
    assert diff.stdout.count("came  ") == 3
    assert_user_error(run("grayline", "catalog", "diff", "1", "7", cwd=demo[0]), "there is no version 7")
