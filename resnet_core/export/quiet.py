"""Libraries that talk to the terminal by themselves: what they say is kept from it."""

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

_lock = Lock()
_inside = 0  # blocks that are being executed, in whatever threads
_undo = ExitStack()


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing that is printed during the block is seen, not even what C++ writes to the file descriptors 1
    and 2 past Python; an exception goes on its way. What other threads print is not seen either, so the
    block should be short. Blocks of several threads may overlap."""
    global _inside
    with _lock:
        if not _inside:
            _undo.enter_context(_redirected())
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _undo.close()


@contextmanager
def _redirected() -> Iterator[None]:
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as said, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in enumerate(kept, start=1):
                os.dup2(copy, number)
                os.close(copy)
