"""Freed memory stays in the process, measured by the kernel's count of page faults."""

import platform
import subprocess
import sys

import pytest

from fastmask_jax.allocator import keep_freed_memory
from tests import tiny

SIDES = 20
REPEATS = 10
PROGRAM = f"""
import resource, sys, threading
import numpy as np
from fastmask_jax.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()

def work():
    for _ in range({REPEATS} + 1):
        buffers = [np.ones(side * 2**20, np.uint8) for side in range(1, {SIDES})]
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        del buffers

faults = []
thread = threading.Thread(target=work)  # XLA's buffers are allocated by threads, too
thread.start()
thread.join()
print(faults[-1] - faults[0])
"""


def faults(how):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], cwd=tiny.ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_pages_are_faulted_in_once():
    assert faults("kept") < 50 < faults("default")


def test_without_glibc_nothing_happens(monkeypatch):
    def no_library(name):
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", no_library)
    assert not keep_freed_memory()
