"""What libraries print is kept from the terminal, and nothing else is."""

import os
import subprocess
from threading import Barrier, Thread

import pytest

from resnet_core.export.quiet import quiet


def test_nothing_of_the_block_is_seen_not_even_from_outside_of_python(capfd: pytest.CaptureFixture[str]) -> None:
    os.write(1, b"before ")
    with pytest.raises(ZeroDivisionError), quiet():
        fail_loudly()
    os.write(1, b"after")
    os.write(2, b"too")
    assert capfd.readouterr() == ("before after", "too")


def fail_loudly() -> None:
    os.write(2, b"descriptor")
    subprocess.run(["echo", "process"], check=True)
    raise ZeroDivisionError


def test_blocks_of_several_threads_may_overlap(capfd: pytest.CaptureFixture[str]) -> None:
    """The one that begins first ends first, which would leave the other's file for the terminal."""
    both, first_is_out = Barrier(2), Barrier(2)

    def first() -> None:
        with quiet():
            both.wait()
        first_is_out.wait()

    def second() -> None:
        with quiet():
            both.wait()
            first_is_out.wait()
            os.write(1, b"unseen")

    threads = [Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(1, b"seen")
    assert capfd.readouterr().out == "seen"
