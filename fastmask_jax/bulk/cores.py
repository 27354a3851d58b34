"""Gives every actor of a machine its own cores: XLA starts a thread for each core it may use."""

import fcntl
import os
import tempfile
from pathlib import Path

_held: list[int] = []  # open locks; the system releases them when the process ends, however it ends


def take_cores(count: int) -> None:
    """Restricts this process, and the threads that it will start, to `count` cores that no other actor has taken.

    If all are taken, or the machine has no more than `count`, nothing changes.
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
