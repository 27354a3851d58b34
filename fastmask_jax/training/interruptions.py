"""Handles what ends a run early: a signal, or a full disk."""

import errno
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

from fastmask_jax.errors import UserError
from fastmask_jax.weights.checkpoints import Checkpoints


class DiskFull(UserError, OSError):
    """No space is left for the outputs of the run."""


@contextmanager
def naming_full_disk(workdir: Path) -> Iterator[None]:
    """Raises DiskFull if the disk is full: one line that names the last safe checkpoint and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        with closing(Checkpoints(workdir)) as checkpoints:
            latest = checkpoints.latest
        safe = "nothing is saved yet" if latest is None else f"the checkpoint of step {latest} is safe"
        raise DiskFull(
            f"{error.filename or workdir}: the disk is full ({error.strerror}); {safe}: free some space; the same "
            "command resumes from there"
        ) from error


@contextmanager
def signals() -> Iterator[list[signal.Signals]]:
    """Yields a list that SIGTERM and Ctrl-C append to: the loop ends after the current step. A second Ctrl-C kills."""
    caught: list[signal.Signals] = []
    before = {}

    def catch(number: int, frame: FrameType | None) -> None:
        caught.append(signal.Signals(number))
        signal.signal(signal.SIGINT, signal.default_int_handler)

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, catch)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
