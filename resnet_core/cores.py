"""Cores: how many this process may use, and how its threads wait. Set before PyTorch is imported, which reads it once.

PyTorch's threads spin while they wait for one that the system has put aside. With a busy neighbour on each core a
training then has a fifth of its quiet speed. It has a third if the threads soon give up. Giving up at once would cost
small networks a sixth of their speed without any neighbour: their threads would sleep between two operations.
How many threads a training takes beside neighbours: `resnet_core.threads`.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path

_ROOT = Path("/")
_SPINS = "20000"  # of GNU's OpenMP, which PyTorch's wheels use: a fifteenth of its own number
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_THREAD_LIMIT")


def usable_cores(root: Path = _ROOT) -> int:
    """Return the cores that affinity and the quota of the control group leave to this process, at least one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _quota(root))))


def thread_variables(environ: Mapping[str, str], root: Path = _ROOT) -> dict[str, str]:
    """Return the variables to set. Those that the user has set about threads, or about waiting, win."""
    found = {}
    if not any(name in environ for name in _WAITING):
        found["GOMP_SPINCOUNT"] = _SPINS
    if not any(name in environ for name in THREADS) and _quota(root) < math.inf:
        found["OMP_NUM_THREADS"] = str(usable_cores(root))  # OpenMP knows the affinity itself, and no quota
    return found


def _quota(root: Path) -> float:
    """Return the cores of the smallest quota above this process, by versions 2 and 1 of control groups; inf: none."""
    quotas = [math.inf]
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        folder = top / path.lstrip("/")
        for place in (folder, *folder.parents):
            if not place.is_relative_to(top):
                break
            if controllers:
                limit, period = _text(place / "cpu.cfs_quota_us"), _text(place / "cpu.cfs_period_us")
            else:
                limit, _, period = _text(place / "cpu.max").partition(" ")
            if limit.isdecimal() and period.isdecimal() and int(period):
                quotas.append(int(limit) / int(period))
    return min(quotas)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):  # this system has no such limit
        return ""
