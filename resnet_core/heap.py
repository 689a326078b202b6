"""What the C library does with memory that is freed.

A step of training frees its activations, often gigabytes, and the next one asks for as much again. glibc gives
each piece of more than 32 MiB back to the system, which clears every page before it hands it out anew: a third of
the time of a step on large images.
"""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# mallopt's parameters, from glibc's malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
NEVER_TRIM = -1
# Once told anything, glibc no longer adapts its thresholds to what is freed. These are where that leads at most.
USUAL = {MMAP_MAX: 2**16, MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**26}


@contextmanager
def freed_memory_stays() -> Iterator[None]:
    """While it lasts, memory that is freed waits in the process for the next that is asked for; afterwards what is
    unused goes back to the system. Nothing happens where the C library is not glibc, and little in other threads
    than the process's first, whose heaps are small. Of two at a time, the first to end ends it for both."""
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    glibc = ctypes.CDLL(None)
    glibc.mallopt(MMAP_MAX, 0)
    glibc.mallopt(TRIM_THRESHOLD, NEVER_TRIM)
    try:
        yield
    finally:
        for parameter, value in USUAL.items():
            glibc.mallopt(parameter, value)
        glibc.malloc_trim(0)
