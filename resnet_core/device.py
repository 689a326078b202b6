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

# mallopt's parameters, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER_TRIM = -1
# Once told anything, glibc no longer adapts its thresholds to what is freed. These are where that leads at most.
_USUAL = {_MMAP_MAX: 2**16, _MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26}


@contextmanager
def freed_memory_stays() -> Iterator[None]:
    """While it lasts, memory that is freed waits in the process for the next that is asked for; afterwards what is
    unused goes back to the system. Nothing happens where the C library is not glibc, and little in other threads
    than the process's first, whose heaps are small. Of two at a time, the first to end ends it for both."""
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    glibc = ctypes.CDLL(None)
    glibc.mallopt(_MMAP_MAX, 0)
    glibc.mallopt(_TRIM_THRESHOLD, _NEVER_TRIM)
    try:
        yield
    finally:
        for parameter, value in _USUAL.items():
            glibc.mallopt(parameter, value)
        glibc.malloc_trim(0)


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


def find_device(wanted: str = "auto") -> torch.device:
    """`auto` is CUDA, else Apple's MPS, else the CPU; any other name is torch's own."""
    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def training_dtype(device: torch.device) -> torch.dtype | None:
    """The precision for autocast in training, or None for plain float32: bfloat16 where there are units
    for it that halve the time. On a CPU without any it takes ten times as long; Intel's AVX-512 multiplies
    twice as many numbers at once half as often, and the rounding comes on top (0.7 to 1 of float32's speed)."""
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        halves = able.get("amx_bf16") or (able.get("avx512_bf16") and processor().startswith("AMD"))
        return torch.bfloat16 if halves else None
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """While it lasts, a GPU multiplies float32 as float32, which by default its convolutions do not (TF32 has
    10 bits): the scores of all devices agree. It holds for all threads."""
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    with cudnn.flags(True, cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False):
        yield


_lock = Lock()
_alone, _usual = 0, 1  # threads that compute alone now, and how many would share an operation otherwise


@contextmanager
def one_thread() -> Iterator[None]:
    """While it lasts, what this thread computes is computed by it alone: many threads that each have their own
    images get more done than one that shares every step between several. Torch's number is each thread's own,
    but a thread that computes for the first time meanwhile starts with one too."""
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
def repeatable(wanted: bool) -> Iterator[None]:
    """While it lasts, the same input gives the same bits on a GPU too: slower, and an operation that cannot
    promise it raises RuntimeError. cuBLAS wants CUBLAS_WORKSPACE_CONFIG in the environment besides."""
    if not wanted:
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
    """For logs and reports: `cpu (2 threads)`, `cuda (NVIDIA H100)`."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return device.type
