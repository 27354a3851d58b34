"""The pool of actors: starts Ray or joins a cluster, and computes shards on all machines."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

# Read when ray is imported. Ray writes its logs to /tmp/ray, or to RAY_TMPDIR.
for _name, _value in {
    "RAY_USAGE_STATS_ENABLED": "0",  # no usage statistics are sent
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # keeps the visible devices of actors without a GPU
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_worker_niceness": "0",  # otherwise 15: beside any other program, an actor would get a thirtieth of a core
}.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402

from fastmask_jax.bulk.proposer import Job, Proposer  # noqa: E402
from fastmask_jax.errors import InvalidInput  # noqa: E402

OBJECT_STORE_MB = 128  # the pool passes shard numbers, not images; Ray's minimum is 75
_AHEAD = 2  # shards queued per actor


@dataclass(frozen=True)
class Pool:
    """Where to compute; this may change between runs.

    Attributes:
      address: address of a Ray cluster to join; None: start Ray on this machine, and stop it at the end.
      actors_per_machine: number of actors on machines without a GPU; otherwise, each GPU has one actor.
      batch_size: images per device and batch; None: the config's.
      object_store_mb: memory of Ray's object store in MB, if Ray is started here.
    """

    address: str | None = None
    actors_per_machine: int = 1
    batch_size: int | None = None
    object_store_mb: int = OBJECT_STORE_MB


def computed(job: Job, pending: Sequence[int], pool: Pool, report: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """Yields the actors' reports on finished shards, in the order of completion."""
    size, gpus, cores, most = _actors(pool)
    actors = min(size, len(pending))
    report(f"Ray: {actors} {'actor' if actors == 1 else 'actors'}, {'a GPU each' if gpus else f'{cores} cores each'}")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    numbers = ray.data.from_items([{"shard": number} for number in pending], override_num_blocks=len(pending))
    written = numbers.map_batches(
        Proposer,
        batch_size=1,
        fn_constructor_args=(replace(job, cores=0 if gpus or cores == most else cores),),
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=actors, initial_size=actors, max_tasks_in_flight_per_actor=_AHEAD
        ),
        num_gpus=gpus,
        num_cpus=0 if gpus else cores,
    )
    yield from written.iter_rows()


def _actors(pool: Pool) -> tuple[int, int, int, int]:
    """Returns how many actors fit the machines, the GPUs and cores of each, and the cores of the smallest machine."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(int(resources.get("GPU", 0)) for resources in machines)
    if gpus:
        return gpus, 1, 0, 0
    cores = [int(resources.get("CPU", 0)) for resources in machines if resources.get("CPU", 0) >= 1]
    if not cores:
        raise InvalidInput(
            "the Ray cluster has neither GPUs nor CPUs: start its machines with --num-cpus or --num-gpus"
        )
    smallest = min(cores)
    if pool.actors_per_machine > smallest:
        raise InvalidInput(f"--actors_per_machine {pool.actors_per_machine}: the smallest machine has {smallest} cores")
    each = smallest // pool.actors_per_machine
    return sum(count // each for count in cores), 0, each, smallest


@contextmanager
def ray_of(pool: Pool) -> Iterator[None]:
    """Joins a cluster, or starts Ray on this machine; disconnects or stops it at the end."""
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if pool.address:
            ray.init(pool.address, **quiet)
        else:
            memory = pool.object_store_mb << 20
            ray.init("local", include_dashboard=False, object_store_memory=memory, **quiet)
    except (ConnectionError, ValueError) as error:
        where = f"--address {pool.address}" if pool.address else "Ray"
        raise InvalidInput(f"{where}: {str(error).splitlines()[0]}") from None
    try:
        yield
    except ray.exceptions.RayTaskError:
        raise  # a bug, with its traceback
    except ray.exceptions.RayError as error:
        line = str(error).splitlines()[0]
        raise InvalidInput(f"Ray stopped ({line}); finished shards stay, and the same command resumes") from error
    finally:
        ray.shutdown()
