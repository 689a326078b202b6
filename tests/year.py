"""A year of nights: the real nightly flow on a tiny network, and what a year brings.

    python -m tests.year [--seed N] [--nights 365] [--keep FOLDER] [--minutes N]

One seed owns everything: arrivals, bad files, wrong labels, a drift, a leak, an outage week, a full disk, power cuts,
torn files, a clock that is set, housekeeping in MLflow, a store that moves. The year begins with a store that an
earlier release has made. Each morning `tests.mornings` says what is wrong; the first wrong morning ends the year.

A night is a fork of one process that has imported everything, and tasks run without Prefect's engine
(`tests.fault_points`). Days pass by making the store older, so that the product's own clock decides what is old.

With `--keep`, the year is written down after each night, and goes on there when it is run again.
"""

import argparse
import json
import math
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from tests import mornings, old_version
from tests.fault_points import Layer, forked, prepare

DAY = 86_400.0  # seconds
FLOOR = 0.6  # of the gate, on some 90 test images
_CLEAN_FLOOR = 0.5  # on images of other writers: two standard errors of the gate's figure below it
NAME = "digits"
SETTINGS = f"""\
name: {NAME}
source: SOURCE
image: {{size: 8}}
model: {{arch: resnet10, width: 16}}
train: {{epochs: 4, batch_size: 32}}
gate: {{metric: accuracy, minimum: {FLOOR}}}
"""
DELIVERY = (3, 12)  # images a week; most nights have no news, as of most folders
POWER_CUTS = ("killed", "torn", "lost rename", "killed at a statement")
ERRORS = ("EIO", "ENOSPC", "EACCES", "locked")
ONCE = (
    *("leak", "drift", "outage", "no room", "flood", "clock ahead", "clock back", "summer time", "winter time"),
    *("store moves", "rolled back", "still written", "alias deleted"),
)
OFTEN = {"power cut": 0.05, "error": 0.05, "bad files": 0.15, "wrong labels": 0.06, "housekeeping": 0.05, "rot": 0.03}
MEASURED = (10, 40, 100, 200, 300, 365)  # nights after which sizes and a night without news are measured
DRAWN = 10  # the charts and pictures of every tenth night are drawn
PREFIX = "grayline.history."
FRONT, BACK = len(PREFIX), len(PREFIX) + 26  # of the time in a key
# What is written down as it is.
_STATE = ("seed", "sizes", "next", "night", "ops", "after_fault", "measure_next", "rotten", "faults")
_CLEAN = 200  # digits that never lie in the source: the champion answers for them each morning
# Columns of MLflow's that hold a time, in milliseconds.
_TIMES = {
    "runs": ("start_time", "end_time", "deleted_time"), "model_versions": ("creation_time", "last_updated_time"),
    "logged_models": ("creation_timestamp_ms", "last_updated_timestamp_ms"),
}  # fmt: skip


class Staged(Layer):
    """A layer that leaves behind at which stage of the night it spoilt something."""

    def _note(self) -> None:
        frame, stage = sys._getframe(), "in the background"
        while frame := frame.f_back:  # type: ignore[assignment]
            path = frame.f_code.co_filename
            if path.endswith(("flows/nightly_retrain.py", "flows/prune.py")):
                stage = frame.f_code.co_name.strip("_").replace("make_shards", "preprocess")
                break
        Path(self.root).parent.joinpath("stage").write_text(stage)

    def _spoil(self, path: str, new: str) -> None:
        self._note()
        super()._spoil(path, new)

    def _hits(self, faults: Any) -> bool:
        hit = super()._hits(faults)
        if hit and self.fault in ("locked", "killed at a statement"):
            self._note()
        return hit


class WrongMorningError(Exception):
    """A morning on which something is wrong."""


@dataclass
class Year:
    """The state of the world around the store, and what has happened: fault, stage, outcome."""

    home: Path
    seed: int
    nights: int = 365
    happened: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    sizes: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        from sklearn.datasets import load_digits

        self.draw, digits = random.Random(self.seed), load_digits()
        self.pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        self.labels = digits.target.tolist()
        self.next, self.night = old_version.IMAGES, 0
        self.store, self.source, self.inbox = self.home / "store", self.home / "digits", self.home / "inbox"
        self.wrong: list[tuple[Path, int]] = []
        self.ops: Counter[str] = Counter()
        self.after_fault = self.measure_next = self.rotten = False
        self.faults: list[int] = []
        self.schedule = self._scheduled()

    def _scheduled(self) -> dict[int, list[str]]:
        """Return what happens on which day: each of ONCE on a day of its own, OFTEN by chance."""
        days = list(range(3, self.nights + 1))
        self.draw.shuffle(days)
        once = self.draw.sample(ONCE, len(ONCE))
        found: dict[int, list[str]] = {day: [what] for day, what in zip(days, once, strict=False)}
        for day in range(2, self.nights + 1):
            often = [what for what, chance in OFTEN.items() if self.draw.random() < chance]
            found[day] = found.get(day) or often
        return found

    # ---- the year
    def run(self, seconds: float = math.inf) -> None:
        """Simulate the nights that are left, for so long at most."""
        ends = time.monotonic() + seconds
        if not self._go_on():
            self._begin()
        self._import_all()
        while self.night < self.nights and time.monotonic() < ends:
            self.night += 1
            self._day_and_night(self.schedule.get(self.night, []))
            self._write_down()

    def _write_down(self) -> None:
        state = {name: getattr(self, name) for name in _STATE} | {
            "draw": self.draw.getstate(), "store": self.store.name, "happened": list(self.happened.items()),
            "wrong": [(str(path), label) for path, label in self.wrong], "schedule": list(self.schedule.items()),
        }  # fmt: skip
        draft = self.home / "year.draft"
        draft.write_text(json.dumps(state))
        draft.replace(self.home / "year.json")

    def _go_on(self) -> bool:
        """Return whether a year was kept here. It goes on after its last night."""
        if not (self.home / "year.json").exists():
            return False
        state = json.loads((self.home / "year.json").read_text())
        for name in _STATE:
            setattr(self, name, state[name])
        version, numbers, gauss = state["draw"]
        self.draw.setstate((version, tuple(numbers), gauss))
        self.store, self.ops = self.home / state["store"], Counter(self.ops)
        self.happened = Counter({tuple(what): count for what, count in state["happened"]})
        self.wrong = [(Path(path), label) for path, label in state["wrong"]]
        self.schedule = dict(state["schedule"])
        self._use_store()
        self.say("the year goes on")
        return True

    def _begin(self) -> None:
        old_version.unpack(self.home)
        (self.home / "digits.yaml").write_text(SETTINGS.replace("SOURCE", str(self.source)))
        np.save(self.home / "clean.npy", self.pixels[-_CLEAN:])
        (self.home / "alerts").touch()
        (self.home / "clean.json").write_text(json.dumps([str(label) for label in self.labels[-_CLEAN:]]))
        self._use_store()

    def _import_all(self) -> None:
        """Import here what a night imports on its way, so that no other night has to."""
        status, _, said = forked(lambda: mornings.night(self.home))
        if status:
            raise WrongMorningError(f"the first night on the old store: {said}")
        for name in json.loads((self.home / "night.json").read_text())["modules"]:
            if name not in sys.modules and not name.startswith("_"):
                with suppress(Exception):  # parts of code that a version brings along
                    import_module(name)
        mornings.warm_up()

    def _use_store(self) -> None:
        os.environ |= {"GRAYLINE_STORE": str(self.store), "GRAYLINE_PRUNE_NIGHTLY": "true"}
        os.environ.pop("MLFLOW_TRACKING_URI", None)

    def _day_and_night(self, events: list[str]) -> None:
        self.shift(-DAY)
        if self.after_fault and (later := [event for event in events if event in ONCE]):
            self.schedule.setdefault(self.night + 1, []).extend(later)
            events = []
        rots = "rot" in events and not self.after_fault
        spoilt = not {"power cut", "error"}.isdisjoint(events)  # a night without news has few operations to spoil
        if (self.night % 7 == 1 or spoilt) and not rots:
            self.arrive(self.draw.randint(*DELIVERY))
        fault, env = "", {}
        for event in events:
            match event:
                case "power cut":
                    fault = self.draw.choice(POWER_CUTS)
                case "error":
                    fault = self.draw.choice(ERRORS)
                case "no room":
                    env = {"GRAYLINE_FREE_BYTES": str(2**60)}
                    self.arrive(3)  # a night without news needs no room
                case "outage":
                    self.shift(-6 * DAY)
                    self.arrive(sum(DELIVERY))
                case "rot" if rots:
                    self.rot()
                case "clock ahead":
                    self.shift(-400 * DAY)
                case "clock back":
                    self.shift(3 * DAY)
                case "summer time" | "winter time":
                    self.shift(3600.0 if event == "winter time" else -3600.0)
                case "rot":
                    continue
                case _:
                    getattr(self, event.replace(" ", "_"))()
        if fault:
            at = self.draw.randint(1, max(1, self.ops[fault]))
            self.spoilt_night(fault, at)
        else:
            self.quiet_night(events, env)
        if "clock ahead" in events:
            self.shift(400 * DAY)
        if self.night in MEASURED:
            self.measure_next = True
        if self.measure_next and not self.after_fault:
            self.measure()

    def _night(self) -> None:
        mornings.night(self.home, draws=self.night % DRAWN == 0)

    def spoilt_night(self, fault: str, at: int) -> None:
        (self.home / "stage").unlink(missing_ok=True)
        status, _, said = forked(self._night, Staged(f"{self.store}/", fault, at))
        stage = (self.home / "stage").read_text() if (self.home / "stage").exists() else "after its end"
        ended = {0: "went on", 137: "died"}.get(status, said.partition(":")[0])
        self.happened[fault, stage, ended] += 1
        self.after_fault = True
        self.faults.append(self.night)
        with (self.home / "alerts").open("a") as file:
            file.write("fault -\n")
        self.say(f"{fault} at operation {at}, {stage}: {ended}")
        self.morning([], whole=False)

    def quiet_night(self, events: list[str], env: dict[str, str]) -> None:
        os.environ |= env
        status, counts, said = forked(self._night, Staged(f"{self.store}/"))
        for name in env:
            del os.environ[name]
        wanted = 1 if env or "flood" in events else 0
        if events or said:
            self.say(f"{', '.join(events)}: {said or 'done'}")
        for event in events:
            self.happened[event, "", "ended with a line" if status else "done"] += 1
        if status != wanted:
            raise WrongMorningError(f"the night ended with {status} ({said})")
        if status:
            self.after_fault = True
            if "flood" in events:
                for path in self.source.glob("*/flood-*"):
                    path.unlink()
            self.morning([], whole=False)
            return
        self.ops = counts if counts["torn"] >= self.ops["torn"] // 2 else self.ops  # a night with news has more
        self.after_fault = False
        self.morning(events, whole=True)

    def morning(self, events: list[str], *, whole: bool) -> None:
        """Hold the store against what is always so; `whole`: also what is so after a night that went well."""
        deep = whole and bool(events or self.night % 5 == 0 or self.night - 1 in self.faults or self.rotten)
        recent = sum(night > self.night - 60 for night in self.faults)
        ask = mornings.Morning(NAME, _CLEAN_FLOOR, whole, deep, recent, "alias deleted" in events, self.rotten)
        self.rotten &= not deep
        status, _, said = forked(lambda: mornings.look(self.home, ask))
        found = json.loads((self.home / "morning.json").read_text()) if not status else [said]
        if found:
            raise WrongMorningError("; ".join(found))

    def say(self, text: str) -> None:
        print(f"night {self.night:>3}  {text}", flush=True)  # noqa: T201

    # ---- what a day brings
    def write(self, number: int, label: int, name: str = "") -> Path:
        path = self.source / str(label) / f"{name or f'{number:04}'}.png"
        Image.fromarray(self.pixels[number]).save(path)
        os.utime(path, (old_version.MODIFIED, old_version.MODIFIED + self.night))
        return path

    def arrive(self, count: int) -> None:
        for _ in range(count):
            if self.next < len(self.labels) - _CLEAN:
                self.write(self.next, self.labels[self.next])
                self.next += 1

    def bad_files(self) -> None:
        image = (self.source / "0" / "0000.png").read_bytes()
        for content in self.draw.sample([b"", b"no image", image[:-30], b"\x89PNG\r\n\x1a\n" + bytes(40)], 2):
            path = self.source / self.draw.choice("0123456789") / f"bad-{self.night}-{len(content)}.png"
            path.write_bytes(content)
            os.utime(path, (old_version.MODIFIED, old_version.MODIFIED))

    def wrong_labels(self) -> None:
        """Put some arrivals into wrong folders; those of earlier times are found by a person and moved."""
        for path, label in self.wrong:
            path.rename(self.source / str(label) / path.name)
        self.wrong = []
        for _ in range(8):
            if self.next < len(self.labels) - _CLEAN:
                right = self.labels[self.next]
                self.wrong.append((self.write(self.next, (right + self.draw.randint(1, 9)) % 10), right))
                self.next += 1

    def flood(self) -> None:
        images = sorted(self.source.glob("*/*.png"))
        for number, image in enumerate(images[: len(images) // 2]):
            path = self.source / "3" / f"flood-{number}.png"
            path.write_bytes(image.read_bytes()[:-25] + b"%d" % number)
            os.utime(path, (old_version.MODIFIED, old_version.MODIFIED))

    def leak(self) -> None:
        """Copy test images back into the source: the same bytes, and the same pixels in other bytes."""
        wrong = {str(path) for path, _ in self.wrong}  # moved one day: a copy would then have another label
        some = [uri for uri in mornings.uris(self.store, NAME, "test") if uri not in wrong]
        for number, uri in enumerate(some[:6]):
            path = Path(uri)
            copy = path.with_name(f"leak-{number}.png")
            if number % 2:
                shutil.copy(path, copy)
            else:
                text = PngImagePlugin.PngInfo()
                text.add_text("copied", "yes")
                Image.open(path).save(copy, pnginfo=text, compress_level=1)
            os.utime(copy, (old_version.MODIFIED, old_version.MODIFIED))

    def still_written(self) -> None:
        """Leave a copy that is under way, by its name and by its content."""
        image = (self.source / "0" / "0000.png").read_bytes()
        (self.source / "0" / "copying.png.part").write_bytes(image[:50])
        (self.source / "0" / "copying.png").write_bytes(image[:-20])

    def drift(self) -> None:
        """Score a batch that drifts, and one of images like those that the champion was judged by."""
        folder = self._inbox("drift")
        for number in range(len(self.labels) - _CLEAN, len(self.labels)):
            Image.fromarray(255 - self.pixels[number]).save(folder / f"{number}.png")
        self._batch(folder, drifts=True)
        folder = self._inbox("usual")
        for number, uri in enumerate(mornings.uris(self.store, NAME, "test")):
            shutil.copy(uri, folder / f"{number}.png")
        self._batch(folder, drifts=False)

    def _inbox(self, name: str) -> Path:
        folder = self.inbox / name
        folder.mkdir(parents=True)
        (folder / "bad.png").write_bytes(b"bad")
        return folder

    def _batch(self, folder: Path, *, drifts: bool) -> None:
        status, _, said = forked(lambda: mornings.batch(self.home, folder, NAME, drifts))
        if status:
            raise WrongMorningError(f"a batch: {said}")

    def store_moves(self) -> None:
        self.store = self.store.rename(self.home / f"store-{self.night}")
        self._use_store()

    def rolled_back(self) -> None:
        self._by_hand("roll_back")

    def alias_deleted(self) -> None:
        self._by_hand("delete_alias")

    def housekeeping(self) -> None:
        self._by_hand(self.draw.choice(mornings.CHORES))

    def _by_hand(self, chore: str) -> None:
        status, _, said = forked(lambda: mornings.chore(NAME, chore, self.draw.random()))
        self.say(f"by hand: {chore}")
        if status:
            raise WrongMorningError(f"{chore}: {said}")

    def rot(self) -> None:
        """Cut a file in half that the next night can make again. A bad sector does so under all of its names."""
        files = [self.store / "catalog" / NAME / "catalog.parquet"]
        for place in (self.store / "shards" / NAME, self.store / "pixels" / NAME):
            files += max(place.iterdir(), key=lambda path: path.stat().st_mtime).glob("*")
        path = self.draw.choice(sorted(files))
        content = path.read_bytes()
        if self.draw.random() < 0.5:
            path.unlink()
        path.write_bytes(content[: len(content) // 2])
        self.rotten = True
        self.say(f"rot: {path.relative_to(self.store).parts[0]}/{path.name}")

    # ---- time
    def shift(self, seconds: float) -> None:
        """Move the store through time: every file, and MLflow's and our own times in its database."""
        seen: set[int] = set()
        for folder, _, names in os.walk(self.store):
            for name in names:
                path = os.path.join(folder, name)
                facts = os.stat(path)
                if facts.st_ino not in seen:
                    seen.add(facts.st_ino)
                    os.utime(path, (facts.st_atime, facts.st_mtime + seconds))
        for file in self.store.glob("watch/*/*.json"):
            with suppress(ValueError):  # a torn one
                content = json.loads(file.read_text())
                file.write_text(json.dumps(content | {"since": content.get("since", 0) + seconds}))
        with closing(sqlite3.connect(self.store / "mlflow.db", timeout=30)) as db, db:
            for table, columns in _TIMES.items():
                changes = ", ".join(f"{name} = {name} + {int(seconds * 1000)}" for name in columns)
                db.execute(f"update {table} set {changes}")
            keys = db.execute("select key from registered_model_tags where key like ?", [f"{PREFIX}2%"]).fetchall()
            pairs = [(f"{PREFIX}{_moved(key[FRONT:BACK], seconds)}{key[BACK:]}", key) for (key,) in keys]
            db.executemany("update registered_model_tags set key = ? where key = ?", pairs)

    def measure(self) -> None:
        """Note sizes, and the processor seconds of a night without news."""
        self.measure_next = False
        seconds = []
        for _ in range(3):
            status, _, said = forked(lambda: mornings.night(self.home))
            if status:
                raise WrongMorningError(f"a night without news: {said}")
            seconds.append(json.loads((self.home / "night.json").read_text())["seconds"])
        found = mornings.sizes(self.store, NAME) | {"night": self.night, "seconds": round(min(seconds), 2)}
        self.sizes.append(found)
        self.say(f"sizes: {found}")


def _moved(text: str, seconds: float) -> str:
    return f"{datetime.fromisoformat(text) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S.%f}"


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options.add_argument("--nights", type=int, default=365)
    options.add_argument("--keep", type=Path, help="Keep the year here, to look at a wrong morning.")
    options.add_argument("--minutes", type=float, default=math.inf, help="End after so long; with --keep it goes on.")
    chosen = options.parse_args()
    from tasks.settings import prepare_environment

    prepare_environment()
    prepare()
    with tempfile.TemporaryDirectory(prefix="grayline-year-") as folder:
        year = Year(Path(chosen.keep or folder).absolute(), chosen.seed, chosen.nights)
        year.home.mkdir(exist_ok=True)
        began, wrong = time.monotonic(), ""
        print(f"seed {year.seed}, {year.nights} nights", flush=True)  # noqa: T201
        try:
            year.run(chosen.minutes * 60)
        except WrongMorningError as error:
            wrong = f"WRONG  seed {year.seed}, night {year.night}: {error}"
        for (fault, stage, ended), count in sorted(year.happened.items()):
            print(f"| {fault} | {stage} | {count} | {ended} |")  # noqa: T201
        print(wrong or f"{year.night} of {year.nights} nights, {time.monotonic() - began:.0f} s: nothing is wrong")  # noqa: T201
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
