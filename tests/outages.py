"""Outages of a real stack while nights train: each server, the worker, a night's process, a suspended machine.

    python -m tests.outages [--silent SECONDS]

It is run by hand. Two data sets train at length. MLflow and Prefect's server are killed
and started again: the nights go on. Then the worker and a night are killed, and the other night is suspended, as with a
laptop that is closed: Prefect's automation marks both as Crashed, and the next nights run.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from flows.stack.api import Api
from flows.stack.processes import say
from tests.fault_points import images

HOME = Path(__file__).parents[1]
DATASET = """name: {name}
source: {source}
image: {{size: 32}}
split: {{near_duplicates: false}}
model: {{arch: resnet10, width: 16}}
train: {{epochs: {epochs}}}
gate: {{minimum: 0.0}}
"""
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Stack:
    """A stack of its own, with ports and a store of its own."""

    def __init__(self, home: Path) -> None:
        self.home, self.store = home, home / "store"
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0)), other.bind(("127.0.0.1", 0))
            self.ports = one.getsockname()[1], other.getsockname()[1]
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("GRAYLINE", "PREFECT", "MLFLOW"))}
        self.env = kept | {
            "PYTHONPATH": str(HOME), "GRAYLINE_STORE": str(self.store),
            "GRAYLINE_PREFECT_PORT": str(self.ports[0]), "GRAYLINE_MLFLOW_PORT": str(self.ports[1]),
        }  # fmt: skip

    def make(self, word: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "flows.stack", word], cwd=self.home, env=self.env, capture_output=True, text=True
        )
        say(f"{word}: {(done.stdout + done.stderr).strip()}")
        assert done.returncode == 0

    @property
    def api(self) -> Api:
        password = (self.store / "stack" / "password").read_text().strip()
        return Api(f"http://127.0.0.1:{self.ports[0]}/api", f"grayline:{password}")

    def dataset(self, name: str, epochs: int) -> Path:
        path = self.home / f"{name}.yaml"
        path.write_text(DATASET.format(name=name, source=self.home / "source", epochs=epochs))
        return path

    def night(self, name: str) -> str:
        (deployment,) = (d for d in self.api.all("/deployments/filter", {}) if d["name"] == "nightly-retrain")
        values = {"parameters": {"dataset": str(self.home / f"{name}.yaml")}}
        return str(self.api.ask(f"/deployments/{deployment['id']}/create_flow_run", values)["id"])

    def state(self, run: str) -> str:
        return str(self.api.ask(f"/flow_runs/{run}")["state_type"])

    def process(self, name: str) -> psutil.Process:
        return psutil.Process(json.loads((self.store / "stack" / f"{name}.json").read_text())["pid"])

    def processes_of(self, run: str) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("PREFECT__FLOW_RUN_ID") == run:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def epochs(self, name: str) -> float:
        """Return when the newest checkpoint was written."""
        return max((path.stat().st_mtime for path in self.store.glob(f"runs/{name}/*/state.safetensors")), default=0)


def kill(processes: list[psutil.Process], number: int = signal.SIGKILL) -> None:
    for process in processes:
        for each in [*process.children(recursive=True), process]:
            try:
                each.send_signal(number)
            except psutil.NoSuchProcess:
                continue


def wait(what: str, ready: Callable[[], bool], seconds: float) -> None:
    began = time.monotonic()
    while not ready():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"{what}: not after {seconds:.0f} s")
        time.sleep(1)
    say(f"{what}: after {time.monotonic() - began:.0f} s")


@contextmanager
def running(home: Path) -> Iterator[Stack]:
    stack = Stack(home)
    images(home, 0, 60)
    try:
        stack.make("up")
        yield stack
    finally:
        stack.make("down")


def trains(stack: Stack, *names: str) -> None:
    """Wait until each of the nights has written another checkpoint. They take turns: one of them is enough."""
    before = {name: stack.epochs(name) for name in names}
    wait(f"{' or '.join(names)} trains", lambda: any(stack.epochs(n) > before[n] for n in names), 180)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--silent", type=int, default=120, help="Seconds without heartbeats, for the automation.")
    silent = options.parse_args().silent
    with tempfile.TemporaryDirectory(prefix="grayline-outages-") as folder, running(Path(folder)) as stack:
        for name in ("a", "b"):
            stack.dataset(name, 100_000)
        runs: dict[str, Any] = {name: stack.night(name) for name in ("a", "b")}
        wait("both run", lambda: {stack.state(run) for run in runs.values()} == {"RUNNING"}, 180)
        trains(stack, "a", "b")

        for server in ("mlflow", "prefect"):
            kill([stack.process(server)])
            time.sleep(15)
            stack.make("up")
            trains(stack, "a", "b")
            assert {stack.state(run) for run in runs.values()} == {"RUNNING"}, f"{server} was restarted"
        say("right: nights go on while MLflow and Prefect's server are restarted")

        automation = next(a for a in stack.api.all("/automations/filter", {}) if "heartbeats" in a["name"])
        shorter = {key: automation[key] for key in ("name", "description", "enabled", "actions")}
        shorter["trigger"] = automation["trigger"] | {"within": silent}
        stack.api.ask(f"/automations/{automation['id']}", shorter, "PUT")
        time.sleep(60)  # heartbeats that the automation sees
        assert {stack.state(run) for run in runs.values()} == {"RUNNING"}, "with heartbeats"
        suspended = stack.processes_of(runs["a"])
        kill([stack.process("worker")], signal.SIGKILL)
        kill(suspended, signal.SIGSTOP)
        kill(stack.processes_of(runs["b"]))
        wait(
            f"{silent} s without heartbeats: both are Crashed",
            lambda: {stack.state(run) for run in runs.values()} == {"CRASHED"}, 4 * silent + 300,
        )  # fmt: skip
        kill(suspended, signal.SIGCONT)
        for name in ("a", "b"):
            stack.dataset(name, random.randint(1, 3))
        time.sleep(45)
        say(f"a, awake again: {stack.state(runs['a'])}, {len(stack.processes_of(runs['a']))} processes")
        stack.make("up")
        kill(stack.processes_of(runs["a"]))
        after = {name: stack.night(name) for name in ("a", "b")}
        wait("the next nights end", lambda: all(stack.state(run) in ENDED for run in after.values()), 300)
        assert {stack.state(run) for run in after.values()} == {"COMPLETED"}, [stack.state(r) for r in after.values()]
        say("right: what was silent is Crashed, and the next nights have run")


if __name__ == "__main__":
    main()
