"""Handles what ends a run early: a signal, or a full disk."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np

from fastmask_jax import cluster
from fastmask_jax.training.devices import AXIS
from fastmask_jax.training.step import Step
from fastmask_jax.weights.checkpoints import saved_steps

SIGNAL = "signal"  # metric of a step: the highest signal number that any process has caught
SAME_KEYPRESS = 1.0  # seconds within which two SIGINTs count as one


def what_is_safe(workdir: Path) -> str:
    """Says which checkpoint of a run is safe on a full disk, and how to go on."""
    latest = max(saved_steps(workdir), default=None)
    safe = "nothing is saved yet" if latest is None else f"the checkpoint of step {latest} is safe"
    return f"{safe}: free some space; the same command resumes from there"


class Stop:
    """The signals that ask a run to stop, and the agreement of its processes to stop after the same step.

    Attributes:
      caught: the first signal that this process received.
      agreed: the signal for which all processes stop now.
    """

    def __init__(self) -> None:
        self.caught: signal.Signals | None = None
        self._agreed: signal.Signals | None = None

    @property
    def agreed(self) -> signal.Signals | None:
        return self.caught if cluster.processes() == 1 else self._agreed

    def agree(self, number: int) -> None:
        """Sets the highest signal number that any process had caught at the same point of the run; 0: none."""
        if number and not self._agreed:
            self._agreed = signal.Signals(number)

    def agree_now(self) -> None:
        """Exchanges the caught signals; all processes must call this at the same point of the run."""
        self.agree(max(cluster.gather(int(self.caught or 0))))

    def while_evaluating(self) -> Callable[[], bool]:
        """Returns a function that returns whether any process has caught a signal since, up to a second ago."""
        flag = cluster.SharedFlag()

        def asked() -> bool:
            if self.caught:
                flag.raise_()
            return bool(flag)

        return asked

    def spread(self, step: Step) -> Step:
        """Returns a step that receives (batch, int32[]: caught signal or 0) and whose metrics contain the highest one.

        All processes read the metrics of a step at the same point of the run, so no additional messages are needed.
        """

        def spreading(state: Any, batch: Any) -> tuple[Any, Mapping[str, jax.Array]]:
            state, metrics = step(state, batch[0])
            return state, {**metrics, SIGNAL: jax.lax.pmax(batch[1], AXIS)}

        return spreading

    def with_caught(self, batch: Any) -> Any:
        """Returns a batch of all local devices for the mapped step of `spread`."""
        return batch, np.full(jax.local_device_count(), int(self.caught or 0), np.int32)


@contextmanager
def signals() -> Iterator[Stop]:
    """Catches SIGTERM, SIGHUP and Ctrl-C, after which the run finishes its step, saves and stops.

    A second Ctrl-C ends the process immediately, unless it comes within `SAME_KEYPRESS` seconds of the first: wrappers
    of a command may pass on the same key press.
    """
    stop = Stop()
    before = {}
    interrupted: float | None = None

    def catch(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        stop.caught = stop.caught or signal.Signals(number)
        if number == signal.SIGINT:
            if interrupted is not None and time.monotonic() > interrupted + SAME_KEYPRESS:
                os.write(2, b"interrupted\n")
                os._exit(128 + number)
            interrupted = interrupted or time.monotonic()

    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        if number := getattr(signal, name, None):  # Windows has no SIGHUP
            before[number] = signal.signal(number, catch)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
