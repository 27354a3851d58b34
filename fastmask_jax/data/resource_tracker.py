"""Lets Python's resource tracker outlive a kill of the whole process group, so that no shared memory is left behind.

Worker processes pass batches in shared memory and count them by named semaphores; files in /dev/shm that stay until
somebody removes them. Python's resource tracker, a process of its own, does so when all others are gone, but SIGKILL to
the process group, as of a batch system or `kill -9 -PGID`, ends it as well.
"""

import os
import sys
from collections.abc import Sequence
from multiprocessing import resource_tracker, util


def start_in_own_session() -> None:
    """Starts the resource tracker of this process, if none runs yet, in a session of its own.

    Call it before the first worker process starts. Linux only: elsewhere Python starts it as usual, later.
    """
    if sys.platform == "linux":
        usual, util.spawnv_passfds = util.spawnv_passfds, _spawn
        try:
            resource_tracker.ensure_running()
        finally:
            util.spawnv_passfds = usual


def _spawn(path: bytes | str, arguments: Sequence[bytes | str], descriptors: Sequence[int]) -> int:
    """Starts a program in a new session with these descriptors and no output; returns its number."""
    kept = [(os.POSIX_SPAWN_DUP2, number, number) for number in descriptors if number > 2]
    silent = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
    return os.posix_spawn(path, arguments, os.environ, file_actions=[*silent, *kept], setsid=True)
