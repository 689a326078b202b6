"""The machine that something was computed on: what may change the last bits of a result, and its price."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Machine:
    """instructions: the vector units that PyTorch uses, as AVX512; threads: PyTorch's; memory in GiB."""

    processor: str
    instructions: str
    cores: int
    threads: int
    memory: float
    gpus: tuple[str, ...]
    system: str

    def __str__(self) -> str:
        gpus = f", {' and '.join(self.gpus)}" if self.gpus else ""
        return f"{self.processor}, {self.cores} cores, {self.threads} threads, {self.memory:.0f} GiB{gpus}"


def this_machine() -> Machine:
    """As this process sees it."""
    import psutil  # a version that is served asks for the processor's name alone, and does without

    return Machine(
        processor=processor(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        memory=round(psutil.virtual_memory().total / 2**30, 1),
        gpus=tuple(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())),
        system=f"{platform.system()} {platform.release()}",
    )


def processor() -> str:
    """The processor's name, which Linux tells in a file only."""
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
