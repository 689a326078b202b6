"""The device to compute on, and the threads and precision that suit it."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import torch

from resnet_core.errors import plural

# mallopt's parameters, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER_TRIM = -1
# After mallopt, glibc no longer adapts its thresholds. These are the largest that it would have adapted to.
_USUAL = {_MMAP_MAX: 2**16, _MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26}

_lock = Lock()
_keeping = 0  # contexts that keep freed memory now


@contextmanager
def freed_memory_stays() -> Iterator[None]:
    """Keep freed memory in the process for the next allocation; return it to the system afterwards.

    It works with glibc, and in the main thread: the heaps of other threads are small. If several of these contexts
    overlap, the last one that ends is the end of all.
    """
    global _keeping
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    glibc = ctypes.CDLL(None)
    with _lock:
        _keeping += 1
        glibc.mallopt(_MMAP_MAX, 0)
        glibc.mallopt(_TRIM_THRESHOLD, _NEVER_TRIM)
    try:
        yield
    finally:
        with _lock:
            _keeping -= 1
            if not _keeping:
                for parameter, value in _USUAL.items():
                    glibc.mallopt(parameter, value)
                glibc.malloc_trim(0)


@dataclass(frozen=True)
class Machine:
    """instructions: the vector units that PyTorch uses, like AVX512; threads: PyTorch's; memory: GiB."""

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
    """Return the machine as this process sees it."""
    import psutil  # not installed where a version is served, which needs the processor's name alone

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
    """Return the processor's name, which Linux keeps in a file."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def arithmetic(device: torch.device) -> str:
    """Return the GPU's name, or the processor's and its instructions. Machines where it is equal compute alike."""
    if device.type != "cpu":
        return describe(device)
    units = sorted(name for name, there in torch.cpu.get_capabilities().items() if there is True)
    return " ".join([processor(), *units])


def find_device(name: str = "auto") -> torch.device:
    """Return the device of torch's name; `auto` is CUDA, else Apple's MPS, else the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def training_dtype(device: torch.device) -> torch.dtype | None:
    """Return the precision for autocast in training, or None for plain float32.

    bfloat16 is for units that halve the time. A CPU without them takes ten times as long. Intel's AVX-512 has 0.7 to
    1 of float32's speed: it multiplies twice as many numbers half as often, and rounds them.
    """
    if device.type == "cpu":
        units = torch.cpu.get_capabilities()
        fast = units.get("amx_bf16") or (units.get("avx512_bf16") and processor().startswith("AMD"))
        return torch.bfloat16 if fast else None
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Multiply float32 as float32 on a GPU, not as TF32 with its 10 bits: the scores of all devices agree.

    It holds for all threads.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    with cudnn.flags(True, cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False):
        yield


_alone, _usual = 0, 1  # threads that compute alone now; threads of an operation otherwise


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in this thread alone: many threads with images of their own are faster than shared operations.

    The number belongs to the thread, but threads that compute for the first time meanwhile also start with one.
    """
    global _alone, _usual
    with _lock:
        _usual = _usual if _alone else torch.get_num_threads()
        _alone += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _alone -= 1
            torch.set_num_threads(_usual)


@contextmanager
def repeatable(enabled: bool) -> Iterator[None]:
    """Give the same bits for the same input on a GPU, more slowly; cuBLAS needs CUBLAS_WORKSPACE_CONFIG besides.

    An operation that cannot promise it raises RuntimeError.
    """
    if not enabled:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def describe(device: torch.device) -> str:
    """Return the device for logs and reports: `cpu (2 threads)`, `cuda (NVIDIA H100)`."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({plural(torch.get_num_threads(), 'thread')})"
    return device.type
