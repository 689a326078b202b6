"""The device to compute on, and the threads and precision that suit it."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch

from resnet_core.machine import processor


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
