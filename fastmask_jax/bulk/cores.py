"""Assigns each actor of a machine its own cores, because XLA starts one thread per available core."""

import fcntl
import os
import tempfile
from pathlib import Path

_held: list[int] = []  # open locks; the system releases them when the process ends


def take_cores(count: int) -> None:
    """Restricts this process and its future threads to `count` cores that no other actor has taken.

    Does nothing if all cores are taken or the machine has at most `count`.
    """
    cores = sorted(os.sched_getaffinity(0))
    for first in range(0, len(cores) - count + 1, count):
        chosen = cores[first : first + count]
        lock = Path(tempfile.gettempdir()) / f"fastmask_jax-{os.getuid()}-{count}-cores-from-{chosen[0]}.lock"
        file = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        _held.append(file)
        os.sched_setaffinity(0, chosen)
        return
