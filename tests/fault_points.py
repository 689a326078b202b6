"""Every operation fails once: the store's files, MLflow's database, requests; under nights, batches and promotions.

    python -m tests.fault_points [--points N] [--seed S] [--job JOB] [--fault FAULT]

A job runs once undisturbed, and its operations on the store are counted. Then it runs again from the same beginning,
once for each operation n: the n-th fails, or the process dies at it. The same job runs again without a fault, and its
catalog, shards, rows and versions must be those of the undisturbed run (SQLite's loop).

Operations are seen by Python's audit events, so no code under test knows of this. Each run is a fork of one process
that has imported everything; tasks run without Prefect's engine. `make faults` tries every point.
"""

import argparse
import errno
import hashlib
import inspect
import json
import logging
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, wraps
from itertools import pairwise
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from resnet_core.storage.digest import digests_of, file_digest

FILES = ("EIO", "ENOSPC", "EACCES", "killed", "torn", "lost rename")
DATABASE = ("locked", "killed at a statement")
SERVERS = ("refused",)
_ERRORS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EACCES": errno.EACCES}
_LONG_AGO = 1_700_000_000  # seconds since 1970
_RENAME, _READS = "os.rename", ("os.listdir", "os.scandir")
_WRITES = (_RENAME, "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")
_DIED = 137


@dataclass
class Layer:
    """Counts a process's operations below `root`, by the faults that can hit them, and spoils the `at`-th for one."""

    root: str
    fault: str = ""
    at: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    busy: bool = False
    undone: dict[str, Callable[[], None]] = field(default_factory=dict)  # by the folder that is not flushed yet

    def install(self) -> None:
        from sqlalchemy import event
        from sqlalchemy.engine import Engine

        _INSTALLED.append(self)
        event.listen(Engine, "before_cursor_execute", self._statement)
        sys.addaudithook(self._hook)
        flush = os.fsync

        def lose(file: int) -> None:
            self.lose(str(Path(f"/proc/self/fd/{file}").readlink()))
            flush(file)

        os.fsync = lose  # type: ignore[assignment]

    def lose(self, folder: str) -> None:
        """Let the power go before a folder is flushed in which a name is not on the disk."""
        if undo := self.undone.pop(folder, None):
            self.busy = True
            undo()
            os._exit(_DIED)

    def ask(self, error: Exception) -> None:
        """Count a request to a server, and refuse the one to spoil."""
        if not self.busy and self._hits(SERVERS):
            raise error

    def _hits(self, faults: Iterable[str]) -> bool:
        """Count an operation, and return whether it is the one to spoil."""
        self.counts.update(faults)
        return self.fault in faults and self.counts[self.fault] == self.at

    def _statement(self, connection: Any, cursor: Any, text: str, values: Any, *_: Any) -> None:
        if not self.busy and self._hits(DATABASE):
            if self.fault == "locked":
                from sqlalchemy.exc import OperationalError

                raise OperationalError(text, values, sqlite3.OperationalError("database is locked"))
            os._exit(_DIED)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.busy or (event != "open" and event not in _WRITES and event not in _READS):
            return
        path = os.fsdecode(args[0]) if args and isinstance(args[0], (str, bytes, os.PathLike)) else ""
        if not path.startswith(self.root) or path.startswith((f"{self.root}prefect", f"{self.root}mlflow.db")):
            return
        writes = event in _WRITES or (event == "open" and bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)))
        faults = {"EIO", "EACCES", "killed"} | ({"ENOSPC"} if writes else set())
        if event == _RENAME and Path(path).is_file():
            faults |= {"torn", "lost rename"}
        if self._hits(faults):
            self.busy = True
            try:
                self._spoil(path, os.fsdecode(args[1]) if event == _RENAME else "")
            finally:
                self.busy = False

    def _spoil(self, path: str, new: str) -> None:
        if number := _ERRORS.get(self.fault):
            raise OSError(number, os.strerror(number), path)
        if self.fault == "killed":
            os._exit(_DIED)
        if self.fault == "torn":  # the power went when half of the file was on the disk
            if os.stat(path).st_nlink == 1:  # a file of several names was written earlier, and is on the disk
                os.truncate(path, Path(path).stat().st_size // 2)
            Path(path).replace(new)
            os._exit(_DIED)
        # What was written later is on the disk, and this name is not.
        at, old = Path(new), Path(new).read_bytes() if Path(new).exists() else None
        self.undone[str(at.parent)] = lambda: at.unlink(missing_ok=True) if old is None else _put(new, old)


_INSTALLED: list[Layer] = []  # in this process


def _put(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)


def forked(work: Callable[[], None], layer: Layer | None = None) -> tuple[int, Counter[str], str]:
    """Run in a fork. Returns its status, its operations by the faults that can hit them, and its exception."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1), os.dup2(quiet, 2)
        said, status = "", 0
        if layer:
            layer.install()
        try:
            work()
        except BaseException as error:  # noqa: BLE001  what it was is told to the parent
            if os.environ.get("FAULT_TRACE"):
                import traceback

                with open(os.environ["FAULT_TRACE"], "a") as file:
                    traceback.print_exc(file=file)
            status, said = 1, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:150]}"
        if layer:
            layer.busy = True
            for undo in layer.undone.values():
                undo()
        os.write(writing, json.dumps([layer.counts if layer else {}, said]).encode())
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    counts, said = json.loads(told) if told else ({}, "")
    return status, Counter(counts), said


def _refusable(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of MLflow's store that a layer may refuse, as if a server were down."""

    @wraps(method)
    def ask(*args: Any, **how: Any) -> Any:
        for layer in _INSTALLED:
            layer.ask(MlflowException("API request to http://127.0.0.1/ failed with exception Connection refused"))
        return method(*args, **how)

    return ask


@cache
def prepare() -> None:
    """Import everything once, and let tasks run without Prefect's engine and without its server."""
    logging.disable(logging.CRITICAL)
    import httpx
    import prefect.artifacts
    from prefect import Task

    class Done:
        def __init__(self, value: Any) -> None:
            self.value = value

        def result(self, *_: Any, **__: Any) -> Any:
            return self.value

        def add_done_callback(self, call: Callable[[Any], None]) -> None:
            call(self)

    def publish(*_: Any, **__: Any) -> None:
        for layer in _INSTALLED:
            layer.ask(httpx.ConnectError("All connection attempts failed"))

    Task.__call__ = lambda self, *args, **how: self.fn(*args, **how)
    Task.submit = lambda self, *args, **how: Done(self.fn(*args, **how))
    for name in [name for name in dir(prefect.artifacts) if name.startswith("create_")]:
        setattr(prefect.artifacts, name, publish)
    import mlflow.pyfunc  # noqa: F401
    import torch
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

    for store in (Registry, Tracking):  # what a server of MLflow's would be asked for
        for name, method in [*vars(store).items()]:
            if inspect.isfunction(method) and not name.startswith("_"):
                setattr(store, name, _refusable(method))

    import flows.classify_batch
    import flows.nightly_retrain  # noqa: F401
    import tasks.prune  # noqa: F401

    torch.set_num_threads(1)


NIGHT = """
name: few
source: {source}
image: {{size: 8}}
split: {{near_duplicates: false}}
model: {{arch: resnet10, width: 16}}
train: {{epochs: 1, batch_size: 16}}
gate: {{minimum: 0.0, baseline: false, held_out: 1, promote: better}}
"""


@dataclass(frozen=True)
class Job:
    """Something that a user runs, on the store that the job before has left."""

    after: str | None
    run: Callable[[Path], None]


def _night(home: Path) -> None:
    from flows.nightly_retrain import nightly_retrain

    nightly_retrain.fn(str(home / "few.yaml"))


def _second_night(home: Path) -> None:
    images(home, 40, 12)
    _night(home)


def _correction(home: Path) -> None:
    first = sorted((home / "source/0").iterdir())[0]
    (home / "corrections.csv").write_text(f"path,label\nsource/0/{first.name},1\n")
    (home / "few.yaml").write_text(f"{NIGHT.format(source=home / 'source')}corrections: {home}/corrections.csv\n")
    _night(home)


def _batch(home: Path) -> None:
    from flows.classify_batch import classify_batch

    classify_batch.fn(str(home / "source"), str(home / "store/scores/b"), "few/1", engine="torch")


def _prune(home: Path) -> None:
    from datetime import UTC, datetime, timedelta

    from tasks import prune
    from tasks.workspace import workspace

    prune.delete(prune.leftovers(workspace(), datetime.now(UTC) + timedelta(days=1)))


def _promote(home: Path) -> None:
    from tasks.registry.champion import make_champion
    from tasks.settings import Settings

    make_champion(Settings().tracking_uri, "few", "1", "by hand")


def _rollback(home: Path) -> None:
    from resnet_core.errors import UserError
    from tasks.registry.champion import take_back
    from tasks.settings import Settings

    try:
        take_back(Settings().tracking_uri, "few", "1", "by hand")
    except UserError as error:
        if "is the champion already" not in str(error):  # again: it has been done
            raise


JOBS = {
    "first night": Job(None, _night),
    "second night": Job("first night", _second_night),
    "batch": Job("first night", _batch),
    "night after a batch": Job("batch", _second_night),  # scores some of its images again: the check `flips`
    "correction": Job("second night", _correction),
    "prune": Job("second night", _prune),
    "promote": Job("second night", _promote),
    "rollback": Job("second night", _rollback),
}


def images(home: Path, start: int, count: int) -> None:
    """Write digits of two classes, real and small."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    wanted = [k for k in range(len(digits.target)) if digits.target[k] < 2][start : start + count]
    for k in wanted:
        path = home / "source" / str(digits.target[k]) / f"{k:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            Image.fromarray(np.rint(digits.images[k] * (255 / 16)).astype(np.uint8)).save(path)
            os.utime(path, (_LONG_AGO, _LONG_AGO))  # the catalog has it, and a job may be what writes the image


class Bench:
    """Undisturbed stores, one for each job, always at the same path while a job runs."""

    def __init__(self, folder: Path) -> None:
        self.home, self.kept = folder / "home", folder / "kept"
        self.kept.mkdir(parents=True)
        self.points: dict[str, Counter[str]] = {}
        self._wanted: dict[str, dict[str, str]] = {}
        os.environ["GRAYLINE_STORE"] = str(self.home / "store")
        os.environ.pop("MLFLOW_TRACKING_URI", None)

    def begin(self) -> None:
        """Make the beginning: images, a data set file, and an empty database of MLflow."""
        images(self.home, 0, 40)
        (self.home / "few.yaml").write_text(NIGHT.format(source=self.home / "source"))

        def make() -> None:
            from tasks.registry.runs import client
            from tasks.settings import Settings
            from tasks.workspace import workspace

            workspace()
            client(Settings().tracking_uri).search_experiments()

        status, _, said = forked(make)
        assert status == 0, said
        shutil.copytree(self.home, self.kept / "None")

    def put(self, job: str | None) -> None:
        """Put back what a job has left undisturbed, and count its operations when it is made."""
        if not (self.kept / str(job)).exists():
            assert job is not None
            self.put(JOBS[job].after)
            status, counts, said = forked(lambda: JOBS[job].run(self.home), Layer(f"{self.home}/store/"))
            assert status == 0, f"{job}, undisturbed: {said}"
            self.points[job] = counts
            self._wanted[job] = dict(contents(self.home / "store"))
            assert "null" not in self._wanted[job]["files"], (
                f"{job}, undisturbed: a version's files are not those listed"
            )
            shutil.copytree(self.home, self.kept / job)
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.copytree(self.kept / str(job), self.home)

    def outcome(self, job: str, fault: str, at: int) -> tuple[str, str]:
        """Spoil an operation, run again. Returns how the spoilt run ended, and what is wrong after the second."""
        self.put(JOBS[job].after)
        status, _, said = forked(lambda: JOBS[job].run(self.home), Layer(f"{self.home}/store/", fault, at))
        ended = {0: "done", _DIED: "died"}.get(status, said.partition(":")[0])
        status, _, said = forked(lambda: JOBS[job].run(self.home))
        if status:
            return ended, f"run again, it ends with {said}"
        wanted, found = self._wanted[job], dict(contents(self.home / "store"))
        wrong = [name for name in sorted({*wanted, *found}) if wanted.get(name) != found.get(name)]
        return ended, f"other than undisturbed: {', '.join(wrong[:4])}" if wrong else ""


_OF_THE_MOMENT = ("scored_at", "run", "seconds", "read_at")
_FILES_OF_THE_MOMENT = ("MLmodel", "artifacts/lineage.json")  # ids and the time of MLflow; seconds of the training


def contents(store: Path) -> Iterator[tuple[str, str]]:
    """Yield digests of what a user has: catalog, shards, rows, versions, aliases and moves."""
    import pandas as pd

    for path in sorted(store.glob("shards/**/*.parquet")):
        yield str(path.relative_to(store)), hashlib.sha256(path.read_bytes()).hexdigest()
    for folder in (*store.glob("catalog/*"), *store.glob("scores/*")):
        rows = pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))])
        rows = rows.drop(columns=[name for name in _OF_THE_MOMENT if name in rows]).sort_values("uri")
        yield str(folder.relative_to(store)), hashlib.sha256(rows.to_json(orient="records").encode()).hexdigest()
    with sqlite3.connect(f"file:{store}/mlflow.db?mode=ro", uri=True) as db:
        ask = db.execute
        yield "versions", json.dumps(ask("select name, version from model_versions order by 1, 2").fetchall())
        tags = "select name, version, key, value from model_version_tags where key in (?, ?) order by 1, 2, 3"
        yield "tags", json.dumps(ask(tags, ("grayline.checkpoint", "grayline.champion_reason")).fetchall())
        sealed = ask("select version, value from model_version_tags where key = 'grayline.files' order by 1").fetchall()
        yield "files", json.dumps([(version, _sealed(store, digest)) for version, digest in sealed])
        yield "aliases", json.dumps(ask("select * from registered_model_aliases order by 1, 2").fetchall())
        moves = ask("select value from registered_model_tags where key like 'grayline.history.%' order by key")
        said = [json.loads(value) for (value,) in moves]
        moved = [(move["action"], move["from"], move["to"]) for move in said]
        # A spoilt night may refuse a version for files that it could not list; the next refuses it for its scores.
        again = [move == before and move[0] == "refused" for before, move in pairwise([None, *moved])]
        yield "moves", json.dumps([move for move, twice in zip(moved, again, strict=True) if not twice])


def _sealed(store: Path, digest: str) -> dict[str, str] | None:
    """Return the digests of a version's files by the tag of their list. None if its files are others or are gone."""
    for path in store.glob("mlartifacts/**/digests.json"):
        if file_digest(path) == digest:
            listed, actual = json.loads(path.read_text()), digests_of(path.parent)
            kept = {name: value for name, value in listed.items() if name not in _FILES_OF_THE_MOMENT}
            return kept if listed == actual else None
    return None


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--points", type=int, help="Try so many, drawn by the seed; by default all.")
    options.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options.add_argument("--job", choices=JOBS, action="append")
    options.add_argument("--fault", choices=(*FILES, *DATABASE, *SERVERS), action="append")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="grayline-faults-") as folder:
        wrong = tried(Bench(Path(folder)), chosen.job or [*JOBS], chosen.fault or [*FILES, *DATABASE, *SERVERS], chosen)
    sys.exit(1 if wrong else 0)


def tried(bench: Bench, jobs: list[str], faults: list[str], chosen: argparse.Namespace) -> int:
    """Try points, and print a line for each job and fault. Returns the number of points that are wrong."""
    from tasks.settings import prepare_environment

    prepare_environment()
    prepare()
    say = lambda text: print(text, flush=True)  # noqa: E731, T201
    say(f"seed {chosen.seed}")
    bench.begin()
    for job in jobs:
        bench.put(job)
    total = {(job, fault): bench.points[job][fault] for job in jobs for fault in faults}
    points = [(job, fault, at + 1) for (job, fault), count in total.items() for at in range(count)]
    if chosen.points:
        points = sorted(random.Random(chosen.seed).sample(points, min(chosen.points, len(points))))
    wrong, began = 0, time.monotonic()
    for job in jobs:
        for fault in faults:
            ends: Counter[str] = Counter()
            of_these = [at for other, kind, at in points if (other, kind) == (job, fault)]
            for at in of_these:
                ended, why = bench.outcome(job, fault, at)
                ends[ended] += 1
                if why:
                    wrong += 1
                    say(f"WRONG  {job}, {fault} at {at}: ended with {ended}; {why}")
            if of_these:
                shown = ", ".join(f"{count} {name}" for name, count in ends.most_common())
                say(f"{job:<13} {fault:<22} {len(of_these):>4} of {total[job, fault]:>4} points: {shown}")
    say(f"{len(points)} of {sum(total.values())} points in {time.monotonic() - began:.0f} s; {wrong} wrong")
    return wrong


if __name__ == "__main__":
    main()
