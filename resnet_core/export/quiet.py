"""Quiet: keep the output of libraries that print by themselves from the terminal."""

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

_lock = Lock()
_inside = 0  # blocks in execution, in all threads
_undo = ExitStack()


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress everything printed during the block, also by C++ to the file descriptors 1 and 2; exceptions pass.

    The output of other threads is lost, too, so keep the block short. Blocks of several threads may overlap.
    """
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
    saved = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as said, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in enumerate(saved, start=1):
                os.dup2(copy, number)
                os.close(copy)
