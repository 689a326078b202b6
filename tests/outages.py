"""Outages of a real stack while nights train: each server, the worker, a night's process, a suspended machine.

    python -m tests.outages [PART ...] [--silent SECONDS]

It is run by hand, in some 20 minutes. Two data sets train at length, in turn. Each part is a function, in order:
what is killed or suspended, and how the nights go on. The last lines are a table of faults and results.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from safetensors import safe_open

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
SERVERS = ("prefect", "mlflow")
BOTH = ("a", "b")
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Stack:
    """A stack of its own, with ports and a store of its own."""

    def __init__(self, home: Path) -> None:
        self.home, self.store = home, home / "store"
        self.runs: dict[str, str] = {}  # the last run of each data set
        self.seen: list[tuple[str, str]] = []  # fault, result
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

    def dataset(self, name: str, epochs: int) -> None:
        values = {"name": name, "source": self.home / "source", "epochs": epochs}
        (self.home / f"{name}.yaml").write_text(DATASET.format(**values))

    def begin(self, *names: str) -> None:
        """Start a night of each data set by its deployment."""
        (deployment,) = (d for d in self.api.all("/deployments/filter", {}) if d["name"] == "nightly-retrain")
        for name in names:
            values = {"parameters": {"dataset": str(self.home / f"{name}.yaml")}}
            self.runs[name] = self.api.ask(f"/deployments/{deployment['id']}/create_flow_run", values)["id"]

    def states(self, *names: str) -> list[str]:
        return [str(self.api.ask(f"/flow_runs/{self.runs[name]}")["state_type"]) for name in names]

    def are(self, state: str, *names: str) -> Callable[[], bool]:
        return lambda: set(self.states(*names)) == {state}

    def process(self, name: str) -> psutil.Process:
        return psutil.Process(json.loads((self.store / "stack" / f"{name}.json").read_text())["pid"])

    def nights(self, *names: str) -> list[psutil.Process]:
        """Return the processes of the last runs."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("PREFECT__FLOW_RUN_ID") in {self.runs[name] for name in names}:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def epochs(self, name: str) -> int:
        """Return how many epochs the checkpoint of the data set's latest training holds."""
        files = sorted(self.store.glob(f"runs/{name}/*/state.safetensors"), key=lambda path: path.stat().st_mtime)
        if not files:
            return 0
        with safe_open(files[-1], framework="pt") as saved:
            return len(json.loads(saved.metadata()["grayline"])["epochs"])

    def saw(self, fault: str, result: str) -> None:
        self.seen.append((fault, result))
        say(f"right: {fault}: {result}")


def kill(processes: list[psutil.Process], number: int = signal.SIGKILL) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def family(process: psutil.Process) -> list[psutil.Process]:
    return [*process.children(recursive=True), process]


def wait(what: str, ready: Callable[[], bool], seconds: float) -> int:
    """Wait until it is so; return the seconds."""
    began = time.monotonic()
    while not ready():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"{what}: not after {seconds:.0f} s")
        time.sleep(1)
    took = round(time.monotonic() - began)
    say(f"{what}: after {took} s")
    return took


@contextmanager
def running(home: Path) -> Iterator[Stack]:
    stack = Stack(home)
    images(home, 0, 60)
    try:
        stack.make("up")
        yield stack
    except BaseException:
        say(f"runs: {dict(zip(stack.runs, stack.states(*stack.runs), strict=True))}")
        say((stack.store / "stack" / "worker.log").read_text(errors="replace")[-6000:])
        raise
    finally:
        stack.make("down")


def trains(stack: Stack, *names: str) -> int:
    """Wait until one of the nights, which take turns, has written another checkpoint."""
    before = {name: stack.epochs(name) for name in names}
    return wait(f"{' or '.join(names)} trains", lambda: any(stack.epochs(n) > before[n] for n in names), 180)


def servers(stack: Stack, silent: int) -> None:
    """Kill each, start it again: both nights go on."""
    for name in ("mlflow", "prefect", "worker"):
        kill(family(stack.process(name)) if name in SERVERS else [stack.process(name)])
        time.sleep(15)
        stack.make("up")
        took = trains(stack, *BOTH)
        assert stack.states(*BOTH) == ["RUNNING"] * 2, f"{name} was restarted: {stack.states(*BOTH)}"
        stack.saw(f"{name} killed, started again after 15 s", f"both nights go on; the next checkpoint after {took} s")


def shorten(stack: Stack, silent: int) -> None:
    """Let the automation wait no longer than so many seconds, until the next `up`."""
    automation = next(a for a in stack.api.all("/automations/filter", {}) if "heartbeats" in a["name"])
    shorter = {key: automation[key] for key in ("name", "description", "enabled", "actions")}
    shorter["trigger"] = automation["trigger"] | {"within": silent}
    stack.api.ask(f"/automations/{automation['id']}", shorter, "PUT")
    time.sleep(60)  # heartbeats that the automation sees
    assert stack.states(*BOTH) == ["RUNNING"] * 2, "with heartbeats"


def night(stack: Stack, silent: int) -> None:
    """Kill the night that trains, whose worker was killed before it; then a night of the worker that there is."""
    kill([stack.process("worker")])
    stack.make("up")
    shorten(stack, silent)
    done = {name: stack.epochs(name) for name in BOTH}
    trains(stack, *BOTH)
    at_work = next(name for name in BOTH if stack.epochs(name) > done[name])
    other = BOTH[at_work == "a"]
    kill(stack.nights(at_work))
    took = trains(stack, other)
    marked = wait(f"{at_work} is Crashed", stack.are("CRASHED", at_work), 4 * silent + 300)
    stack.saw(
        f"a night killed that no worker watches, {silent} s without heartbeats",
        f"the other data set trains after {took} s; Crashed after {marked} s more",
    )
    stack.begin(at_work)
    wait("both run", stack.are("RUNNING", *BOTH), 120)
    time.sleep(10)
    kill(stack.nights(at_work))
    marked = wait(f"{at_work} is Crashed", stack.are("CRASHED", at_work), 120)
    stack.saw("a night's process killed", f"its worker marks it Crashed after {marked} s")
    stack.begin(at_work)
    wait("both run", stack.are("RUNNING", *BOTH), 120)


def silence(stack: Stack, silent: int) -> None:
    """Kill the worker and a night, suspend the other night: nobody is left who could report them."""
    shorten(stack, silent)
    suspended = stack.nights("a")
    kill([stack.process("worker")])
    kill(suspended, signal.SIGSTOP)
    kill(stack.nights("b"))
    took = wait("both are Crashed", stack.are("CRASHED", *BOTH), 4 * silent + 300)
    stack.saw(f"worker and night killed, {silent} s without heartbeats", f"Crashed after {took} s")
    kill(suspended, signal.SIGCONT)
    stack.make("up")
    stack.begin("a")
    wait("a second night of a stands back", stack.are("CANCELLED", "a"), 180)
    stack.saw("a night that was taken for dead is awake again", "a second night of its data set stands back")
    kill(suspended)
    done = {name: stack.epochs(name) for name in BOTH}
    assert max(done.values()) > 20, done
    stack.begin(*BOTH)
    resumed = wait("a or b trains again", lambda: any(stack.epochs(n) > done[n] for n in BOTH), 240)
    stack.saw("the next nights", f"go on from epoch {max(done.values())}, {resumed} s after they were started")


def person(stack: Stack, silent: int) -> None:
    """Cancel both in Prefect, and let both come to their end."""
    for name in BOTH:
        state = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        stack.api.ask(f"/flow_runs/{stack.runs[name]}/set_state", state)
    took = wait("both are Cancelled", stack.are("CANCELLED", *BOTH), 180)
    wait("their processes have ended", lambda: not stack.nights(*BOTH), 60)
    for number, name in enumerate(BOTH):
        stack.dataset(name, 1 + number)
    stack.begin(*BOTH)
    wait("the next nights end", lambda: all(state in ENDED for state in stack.states(*BOTH)), 300)
    assert stack.states(*BOTH) == ["COMPLETED"] * 2, stack.states(*BOTH)
    stack.saw("both cancelled by a person", f"Cancelled after {took} s; the next nights are Completed")


def laptop(stack: Stack, silent: int) -> None:
    """Suspend servers, worker and night, as a closed laptop does, for longer than the automation waits."""
    shorten(stack, silent)
    trains(stack, *BOTH)
    everything = [each for name in (*SERVERS, "worker") for each in family(stack.process(name))]
    everything += stack.nights(*BOTH)
    kill(everything, signal.SIGSTOP)
    time.sleep(silent + 30)
    kill(everything, signal.SIGCONT)
    took = trains(stack, *BOTH)
    time.sleep(60)
    found = " and ".join(stack.states(*BOTH))
    assert stack.nights("a"), "a's process has ended"
    assert stack.nights("b"), "b's process has ended"
    stack.saw(f"the machine suspended for {silent + 30} s", f"trains after {took} s; Prefect says {found}")
    kill(stack.nights(*BOTH))


def begin_again(stack: Stack) -> None:
    """Start a night of each data set, unless both run."""
    if not stack.runs or not stack.are("RUNNING", *BOTH)():
        for name in BOTH:
            stack.dataset(name, 100_000)
        stack.begin(*BOTH)
        wait("both run", stack.are("RUNNING", *BOTH), 180)
        trains(stack, *BOTH)


PARTS = {part.__name__: part for part in (servers, night, silence, person, laptop)}


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=", ".join(PARTS))
    options.add_argument("--silent", type=int, default=120, help="Seconds without heartbeats, for the automation.")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="grayline-outages-") as folder, running(Path(folder)) as stack:
        for name in chosen.parts or PARTS:
            begin_again(stack)
            PARTS[name](stack, chosen.silent)
        for fault, result in stack.seen:
            say(f"| {fault} | {result} |")


if __name__ == "__main__":
    main()
