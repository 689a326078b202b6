"""Memory that a step frees is there for the next one, and goes back to the system after the last."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")

# A process of its own: what others have freed in this one would be used first.
SCRIPT = """
import psutil, torch
from resnet_core.device import freed_memory_stays

def resident():
    return psutil.Process().memory_info().rss / 2**20

def used_and_freed():
    for megabytes in (48, 200, 48):
        torch.ones(megabytes * 2**18)

before = resident()
used_and_freed()
print(resident() - before)
with freed_memory_stays():
    used_and_freed()
    print(resident() - before)
print(resident() - before)
"""


def test_freed_memory_stays_while_it_lasts_and_no_longer() -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    before, inside, after = map(float, result.stdout.split())  # MiB
    assert before < 40
    assert inside > 190
    assert after < 40
