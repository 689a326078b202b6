"""Ctrl-C and SIGTERM end a process within seconds, with one line, wherever it is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HOME = Path(__file__).parents[3]
PLACES = {
    "asleep": "time.sleep(60)",
    "waiting for a thread": "with ThreadPoolExecutor(2) as pool: pool.submit(busy).result()",
    "threads without work": "with ThreadPoolExecutor(4) as pool: list(pool.map(time.sleep, [0.1] * 8)); time.sleep(60)",
    "a child that is deaf": "subprocess.run([sys.executable, '-c', DEAF])",
    "a raised error": "\n    try: time.sleep(60)\n    finally: raise ValueError('as libraries do')",
}
PROGRAM = """
import signal, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from flows.machine.interrupt import stoppable

DEAF = "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (2, 15)]; time.sleep(60)"

def busy():
    while True:
        sum(range(1000))

with stoppable():
    print("begins", flush=True)
    PLACE
"""


def stopped(place: str, number: int, times: int = 1) -> tuple[int, str, float]:
    """Return exit status, stderr and seconds of a program that a signal ends at that place."""
    program = [sys.executable, "-c", PROGRAM.replace("PLACE", place)]
    process = subprocess.Popen(program, cwd=HOME, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    time.sleep(0.5)
    began = time.monotonic()
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.05)
    said = process.communicate(timeout=30)[1]
    return process.returncode, said, time.monotonic() - began


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_line_wherever_it_is(place: str, number: int, status: int) -> None:
    code, said, seconds = stopped(PLACES[place], number, times=3)
    assert (code, len(said.splitlines())) == (status, 1), said
    assert said.startswith("grayline: ")
    assert "goes on from here" in said
    assert seconds < 5


def test_in_the_midst_of_c_code() -> None:
    """pbkdf2 takes minutes and looks at no signal."""
    code, said, seconds = stopped("import hashlib; hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10**9)", signal.SIGINT)
    assert (code, len(said.splitlines())) == (130, 1)
    assert seconds < 6


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As in a script that runs the command behind `nohup` or `&`."""
    program = [sys.executable, "-c", PROGRAM.replace("PLACE", "time.sleep(1)")]
    ignoring = "import signal, subprocess, sys; signal.signal(2, signal.SIG_IGN); "
    ignoring += f"sys.exit(subprocess.call({program!r}))"
    process = subprocess.Popen(
        [sys.executable, "-c", ignoring], cwd=HOME, start_new_session=True, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begins\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 0


_AT_THE_END = """
import os
from flows.machine.interrupt import stoppable

class Late:
    def __del__(self):  # modules are taken down after the handlers of signals
        os.kill(os.getpid(), NUMBER)

late = Late()
with stoppable():
    raise SystemExit(3)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_work_leaves_its_status(number: int) -> None:
    program = [sys.executable, "-c", _AT_THE_END.replace("NUMBER", str(int(number)))]
    done = subprocess.run(program, cwd=HOME, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (3, "")
