"""The machine and the packages of a run: without them a figure says nothing."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import features

PACKAGES = ("grayline", "numpy", "pandas", "pillow", "prefect", "pyarrow", "timm", "torch", "torchvision")


def describe() -> dict[str, Any]:
    """`load` is the machine's load average of the last minute: above 0 before the run, others were
    at work."""
    return {
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    found |= {name: version(name) for name in PACKAGES}
    found["libjpeg-turbo"] = features.version_feature("libjpeg_turbo") or "none"
    return found


def processor() -> str:
    """Linux tells the model's name in a file only."""
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
