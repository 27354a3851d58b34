"""Joins the processes of one command on several hosts, exchanges values between them, and ends them together.

This uses JAX's coordination service. In a single process, every function returns immediately. If the cluster breaks,
the service calls `abort`; this module turns that into one line and the exit status `BROKEN`.
"""

import argparse
import ctypes
import json
import os
import signal
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jax
from orbax.checkpoint import multihost

from fastmask_jax.errors import InvalidInput

BROKEN = 75  # exit status if another process is lost: EX_TEMPFAIL, because the same command resumes
HEARTBEAT_SECONDS = 30  # a process that is silent for longer is lost; a virtual machine that is moved may be for 25
SEEN_SECONDS = 15  # time until a file written by one host must be visible on all
_CONNECTION = ("Gloo", "Connection", "Socket closed", "UNAVAILABLE", "coordination service", "heartbeat")

_SIZES = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")  # environment variables: processes of a job

T = TypeVar("T")


def process() -> int:
    """Returns the number of this process, from 0."""
    return jax.process_index()


def processes() -> int:
    """Returns the number of processes."""
    return jax.process_count()


@contextmanager
def joined(options: argparse.Namespace) -> Iterator[None]:
    """Joins the cluster of `--coordinator`, or one that JAX finds in the environment, and leaves it at the end.

    Without a cluster this does nothing. After an error in the block, the process stays in the cluster: the command ends
    without waiting for the other processes, which then detect the loss.

    Raises:
      InvalidInput: the cluster cannot be joined.
    """
    count = options.processes if options.coordinator else _surrounding_processes()
    if count <= 1:
        yield
        return
    _join(options, count)
    with noticing_lost_process():
        yield
        gather("done")  # otherwise the first to finish would time out while the last is still working
    jax.distributed.shutdown()


@contextmanager
def noticing_lost_process() -> Iterator[None]:
    """Ends this process with one line and `BROKEN` if another process cannot be reached in the block.

    Cleanup that needs all processes belongs outside this block.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if processes() > 1 and any(word in str(error) for word in _CONNECTION):
            _end(_lost(str(error).splitlines()[0][:200]))
        raise


def _surrounding_processes() -> int:
    """Returns the number of processes of the SLURM step, MPI job, TPU slice or Kubernetes job around this process."""
    if "KUBERNETES_SERVICE_HOST" in os.environ and "JOB_COMPLETION_INDEX" not in os.environ:
        return 1  # a pod without a job
    try:
        from jax._src.clusters import ClusterEnv  # private, but JAX has no public way to ask without joining

        with warnings.catch_warnings(action="ignore"):  # raised in a Kubernetes pod without the package kubernetes
            for environment in ClusterEnv._cluster_types:
                if not environment.opt_in_only_method and environment.is_env_present():
                    return environment.get_process_count()
    except (ImportError, AttributeError):  # another version of JAX
        if any(os.environ.get(name, "1") != "1" for name in _SIZES):
            raise InvalidInput(
                f"JAX {jax.__version__} does not tell how many processes this job has: pass --coordinator, "
                "--processes and --process"
            ) from None
    return 1


def _join(options: argparse.Namespace, count: int) -> None:
    seconds = options.join_seconds
    where = options.coordinator or "the address that the environment gives"
    who = f"process {options.process} of {count}" if options.coordinator else f"one of {count} processes"
    missed = (
        f"{who} waited {seconds} s for the others at {where}: start all {count}, each with its own number and the "
        "same address and count; the port must be open"
    )
    timer = threading.Timer(seconds, _end, [missed, 2])
    timer.daemon = True
    timer.start()
    _end_at_abort(missed)
    jax.config.update("jax_enable_preemption_service", False)  # it would intercept SIGTERM
    try:
        jax.distributed.initialize(
            options.coordinator,
            options.processes,
            options.process,
            initialization_timeout=seconds + 60,  # our timer fires first: JAX would abort with a stack trace
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise InvalidInput(f"cannot join the cluster at {where}: {str(error).splitlines()[0][:200]}") from error
    finally:
        timer.cancel()
    _end_at_abort(_lost("the cluster service has ended this one; details are above"), BROKEN)


def _end_at_abort(line: str, status: int = 2) -> None:
    """Makes `abort`, which the coordination service calls, end this process with one line."""

    def aborted(_: int) -> None:
        _end(line, status)

    _end_at_abort.handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)  # keeps a reference: the C library has none
    ctypes.CDLL(None).signal(signal.SIGABRT, _end_at_abort.handler)


def _lost(reason: str) -> str:
    return (
        f"another process of this cluster was killed, has failed, or its host is gone ({reason}): see its output; "
        "the same command, started again on all hosts, resumes from the latest checkpoint"
    )


def _end(line: str, status: int = BROKEN) -> NoReturn:
    """Ends the process immediately, from any thread."""
    sys.stdout.flush()
    os.write(2, f"error: {line}\n".encode())
    os._exit(status)


_rounds = iter(range(sys.maxsize))


def gather(value: T) -> list[T]:
    """Returns the values of all processes, in the order of their numbers; every process gets the same list.

    All processes must make these calls in the same order. The call waits as long as the processes are alive.

    Args:
      value: any value that JSON can represent.
    """
    if processes() == 1:
        return [value]
    client, number = multihost.get_jax_distributed_client(), next(_rounds)
    client.key_value_set(f"fastmask/{number}/{process()}", json.dumps(value))
    values = [json.loads(_wait_for(client, f"fastmask/{number}/{other}")) for other in range(processes())]
    client.key_value_set(f"fastmask/{number}/read/{process()}", "")
    if process() == 0:  # it holds the values, and may end after this call
        for other in range(processes()):
            _wait_for(client, f"fastmask/{number}/read/{other}")
        if number:
            client.key_value_delete(f"fastmask/{number - 1}/")
    return values


def _wait_for(client: Any, key: str) -> str:
    while True:
        try:
            return client.blocking_key_value_get(key, 1000)  # short timeout, so that Python can handle signals
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


class SharedFlag:
    """A flag that any process can raise for all, such as a request to stop.

    All processes must create their flags in the same order. Reading a flag asks process 0 at most once per second.
    """

    _made = iter(range(sys.maxsize))

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._key = f"fastmask/flag/{next(self._made)}"
        self._raised, self._clock, self._next = False, clock, 0.0

    def raise_(self) -> None:
        """Raises the flag."""
        if not self._raised and processes() > 1:
            multihost.get_jax_distributed_client().key_value_set(f"{self._key}/raised", "", allow_overwrite=True)
        self._raised = True

    def __bool__(self) -> bool:
        if not self._raised and processes() > 1 and self._clock() >= self._next:
            self._next = self._clock() + 1.0
            self._raised = bool(multihost.get_jax_distributed_client().key_value_dir_get(self._key))
        return self._raised


def check_shared(folder: Path) -> None:
    """Creates `folder` and checks that all processes see the files that process 0 writes there.

    Raises:
      InvalidInput: a process does not see them; raised in every process.
    """
    if processes() == 1:
        return
    name = f".shared-{uuid.uuid4().hex}"
    if process() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (name, *_) = gather(name)
    last = time.monotonic() + SEEN_SECONDS
    while not (found := (folder / name).exists()) and time.monotonic() < last:
        time.sleep(0.2)
    blind = [number for number, sees in enumerate(gather(found)) if not sees]
    if process() == 0:
        (folder / name).unlink()
    if blind:
        raise InvalidInput(
            f"{folder}: process {', '.join(map(str, blind))} does not see what process 0 writes there: give a folder "
            "that all hosts share, by the same path"
        )


def check_same(what: str, value: Any) -> None:
    """Checks that all processes have the same value, any value that JSON can represent.

    Raises:
      InvalidInput: the values differ; raised in every process.
    """
    values = gather(value)
    for number, other in enumerate(values):
        if other != values[0]:
            raise InvalidInput(
                f"process {number} has {what} {other}, process 0 {values[0]}: start all with the same arguments"
            )


def share(items: Sequence[T]) -> Sequence[T]:
    """Returns this process's share of items: contiguous; shares differ in size by at most one."""
    count, number = processes(), process()
    return items[len(items) * number // count : len(items) * (number + 1) // count]
