"""The lineage of a training: everything that it takes to train it again, written beside it when it begins.

The run's folder has it as `lineage.json`, and so has every version that is made of the run.
"""

import hashlib
import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Any

from upath import UPath

import resnet_core
from resnet_core.device import Machine, find_device, this_machine
from resnet_core.storage.digest import source_digest
from resnet_core.storage.files import read_json, write_text
from resnet_core.training.loop import Epoch
from tasks.dataset import Dataset
from tasks.store import LINEAGE
from tasks.training.run import LEARNING
from tasks.values import ShardSet
from tasks.workspace import Workspace

_HOME = Path(resnet_core.__file__).resolve().parents[1]


def write_lineage(folder: UPath, dataset: Dataset, shard_set: ShardSet, start: str | None, here: Workspace) -> None:
    """Write the lineage. start: the digest of the training whose weights it begins with."""
    installed = distributions_here()
    written = {
        "dataset": dataset.model_dump(mode="json"),
        "chosen": dataset.chosen,
        "shards": shard_set.digest,
        "images": {"train": shard_set.train, "validation": shard_set.validation, "test": shard_set.test},
        "start": start,
        "seeds": {"training": dataset.train.seed, "split": dataset.split.seed},
        "device": find_device(here.device).type,
        "resident_bytes": here.resident_bytes,
        "code": source_digest(*LEARNING),
        "commit": commit(),
        "python": platform.python_version(),
        "distributions": installed,
        "lock": lock_digest(installed),
        "machine": asdict(this_machine()),
    }
    write_text(folder / LINEAGE, json.dumps(written, indent=2, ensure_ascii=False) + "\n")


def note_threads(folder: UPath, epochs: Sequence[Epoch]) -> None:
    """Add the threads of each epoch to a lineage: another number adds in another order."""
    if all(epoch.threads for epoch in epochs):
        lineage = read_lineage(folder) | {"threads": [epoch.threads for epoch in epochs]}
        write_text(folder / LINEAGE, json.dumps(lineage, indent=2, ensure_ascii=False) + "\n")


def threads_of(lineage: dict[str, Any]) -> tuple[int, ...]:
    """Return the threads of each epoch, or the one number that an earlier release noted; empty: none."""
    machine = machine_of(lineage)
    return tuple(lineage.get("threads", ())) or ((machine.threads,) if machine else ())


def read_lineage(folder: UPath | Path) -> dict[str, Any]:
    """Read the lineage; empty for a training of an earlier release."""
    path = folder / LINEAGE
    remedy = "It is the record of the training. Delete its folder, and the next night trains again"
    return dict(read_json(path, f"{remedy}.")) if path.exists() else {}


def machine_of(lineage: dict[str, Any]) -> Machine | None:
    """Return the machine that the training ran on."""
    found = lineage.get("machine")
    return Machine(**{**found, "gpus": tuple(found["gpus"])}) if found else None


def distributions_here() -> list[str]:
    """Return every installed distribution as `name==version`, in order."""
    return sorted({f"{d.metadata['Name'].lower()}=={d.version}" for d in distributions()})


def lock_digest(installed: list[str]) -> str:
    """Return the SHA-256 over the lines."""
    return hashlib.sha256("\n".join(installed).encode()).hexdigest()


@lru_cache
def commit() -> str:
    """Return the commit of this code, with `-dirty` if files differ from it, or the version of the installed
    package.
    """
    if _git("ls-files", "--error-unmatch", "resnet_core/__init__.py"):  # and not of a repository around it
        found = _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
        if found:
            return found
    try:
        grayline = distribution("grayline")
        origin = json.loads(grayline.read_text("direct_url.json") or "{}")
        return str(origin.get("vcs_info", {}).get("commit_id") or f"grayline {grayline.version}")
    except PackageNotFoundError:
        return "unknown"


def _git(*arguments: str) -> str:
    """Return git's answer about the folder of this code; empty without git."""
    command = ["git", "-C", str(_HOME), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):  # git is missing, or stands still
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def environment(lineage: dict[str, Any]) -> str:
    """Return the distributions of the training, pinned, a line each."""
    lines = lineage.get("distributions") or distributions_here()
    python = lineage.get("python") or platform.python_version()
    system = lineage.get("machine", {}).get("system") or platform.platform()
    return f"# Python {python} on {system}\n" + "\n".join(lines) + "\n"
