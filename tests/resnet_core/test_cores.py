"""Threads: as many as affinity and quotas leave, and they do not spin long; what the user has set wins."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_core.cores import thread_variables, usable_cores

ALL = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def group(root: Path, text: str, files: dict[str, str]) -> Path:
    for name, content in {"proc/self/cgroup": text, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    ("text", "files", "cores"),
    [
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, ALL),
        ("0::/a/b\n", {"sys/fs/cgroup/a/cpu.max": "50000 100000\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 1),
        ("0::/a\n", {"sys/fs/cgroup/a/cpu.max": "100000000 100000\n"}, ALL),
        ("4:cpu,cpuacct:/x\n1:name=systemd:/y\n",
         {"sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "100000\n", "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n"}, 1),
        ("4:cpu:/\n", {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
         ALL),
        ("torn", {"sys/fs/cgroup/cpu.max": "x"}, ALL),
    ],
)  # fmt: skip
def test_a_quota_of_either_version_counts(tmp_path: Path, text: str, files: dict[str, str], cores: int) -> None:
    assert usable_cores(group(tmp_path, text, files)) == cores


def test_what_the_user_has_set_wins(tmp_path: Path) -> None:
    root = group(tmp_path, "0::/\n", {"sys/fs/cgroup/cpu.max": "100000 100000\n"})
    assert thread_variables({}, root) == {"GOMP_SPINCOUNT": "20000", "OMP_NUM_THREADS": "1"}
    assert thread_variables({"OMP_WAIT_POLICY": "ACTIVE"}, root) == {"OMP_NUM_THREADS": "1"}
    assert thread_variables({"MKL_NUM_THREADS": "2"}, root) == {"GOMP_SPINCOUNT": "20000"}
    assert thread_variables({}, tmp_path / "none") == {"GOMP_SPINCOUNT": "20000"}


def test_it_is_set_before_pytorch_is_imported(tmp_path: Path) -> None:
    code = (
        "import os, sys; from tasks.settings import prepare_environment; prepare_environment(); "
        "print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_", "KMP_"))}
    env |= {"GRAYLINE_STORE": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "20000 False\n"
