"""The actor of the pool: holds the compiled network, reads shards and writes their proposals."""

import os
import socket
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastmask_jax.bulk.cores import take_cores
from fastmask_jax.bulk.plan import read_shard
from fastmask_jax.bulk.reading import Columns, ImageFile, images_of
from fastmask_jax.bulk.storage import OutputFolder
from fastmask_jax.errors import InvalidInput, MissingFile, UserError
from fastmask_jax.inference.options import ProposeOptions
from fastmask_jax.masks.parquet_results import MANIFEST, SHARDS, Counts, ParquetResultsWriter, read_note, shard_name

TRIES = 4  # per shard whose actor dies, for example because the machine was preempted or an image needs too much memory
_COMPLETE = 2  # a shard with at least this many images, none of which can be fetched, is an error


@dataclass(frozen=True)
class Job:
    """The parameters of an actor; picklable.

    Attributes:
      out: folder of the plan, the manifest and the results.
      weights, config, overrides: arguments of `fastmask_jax.load`.
      options: options of `propose`.
      columns: columns of Parquet input.
      attention: whether results include attention.
      batch_size: images per device and batch; None: the config's.
      digest: digest of the weights that made earlier shards; "" before the first shard.
      run: id of the driver's run; only the tries of this run count.
      cores: cores that each actor uses; 0: all.
    """

    out: OutputFolder
    weights: str
    config: str | None
    overrides: tuple[str, ...]
    options: ProposeOptions
    columns: Columns
    attention: bool
    batch_size: int | None
    digest: str
    run: str
    cores: int


class Proposer:
    """A class for `Dataset.map_batches`: receives shard numbers, writes the shards, and returns a report on each.

    Existing shards are not computed again, so Ray may repeat any call. Errors are returned in the column `problem`,
    because Ray would wrap exceptions in its own.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._problem = _Problem()
        with self._problem:
            if job.cores:
                take_cores(job.cores)  # before JAX starts its threads
            if not job.out.exists(MANIFEST):
                raise MissingFile(
                    f"{job.out} is not there on {socket.gethostname()}: give a folder that all machines share, or one "
                    "of an object store"
                )
            import fastmask_jax  # imports JAX

            self._generator = fastmask_jax.load(
                job.weights, config=job.config, overrides=job.overrides, report=lambda line: None
            )
            batch = job.batch_size or self._generator.config.evaluation.batch_size
            self._options = job.options.changed(batch_size=batch)
            self._digest = self._generator.digest()
            if job.digest and job.digest != self._digest:
                raise InvalidInput(
                    f"{job.weights}: not the weights that {job.out} was begun with; restore them, or use another --out"
                )

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        """Writes the shards whose numbers are in `batch["shard"]`; returns a row for each."""
        rows = [self._written(int(number)) for number in batch["shard"]]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _written(self, number: int) -> dict[str, Any]:
        begin = time.perf_counter()
        note: dict[str, Any] | None = None
        if not self._problem.text:
            with self._problem:
                name = f"{SHARDS}/{shard_name(number)}"
                note = self._note_of(name)
                with self._job.out.trying(f"{self._job.run}-{number}") as earlier:
                    if note is None and earlier < TRIES:
                        note = self._compute(number, name)
        given_up = note is None and not self._problem.text
        note = note or Counts()._asdict() | {"weights": ""}
        return {
            "shard": number,
            **{key: note[key] for key in (*Counts._fields, "weights")},
            "seconds": time.perf_counter() - begin,
            "pid": os.getpid(),
            "given_up": given_up,
            "problem": self._problem.text,
        }

    def _note_of(self, name: str) -> dict[str, Any] | None:
        """Returns the counts of a complete existing shard, from an actor that died after writing it; otherwise None."""
        if not self._job.out.exists(name):
            return None
        try:
            with self._job.out.open(name) as file:
                return read_note(file)
        except InvalidInput:
            return None

    def _compute(self, number: int, name: str) -> dict[str, Any]:
        job = self._job
        shard = read_shard(job.out, number)
        waiting: deque[ImageFile] = deque()
        problems: list[str] = []
        refused = 0
        note = {"weights": self._digest}

        def remembered() -> Iterator[ImageFile]:
            with closing(images_of(shard, job.columns)) as images:
                for image in images:
                    waiting.append(ImageFile(image.image_id, b"", image.problem, image.refused))
                    yield image

        with job.out.writing(name) as path:
            with ParquetResultsWriter(path, job.attention, note) as writer:
                for found in self._generator.propose_iter(remembered(), self._options, on_problem=problems.append):
                    image = waiting.popleft()
                    if found is None:
                        writer.write_error(image.image_id, problems.pop().removeprefix(f"{image.image_id}: "))
                        refused += image.refused
                    else:
                        writer.write(image.image_id, found)
            counts = writer.counts
            if refused == counts.images >= _COMPLETE:  # its rows would contain no information about the images
                raise MissingFile(f"{shard.addresses[0]} and {refused - 1} more cannot be fetched: {image.problem}")
        return counts._asdict() | note


class _Problem:
    """Catches the error of a `with` block: keeps one line for user errors, the traceback for others."""

    def __init__(self) -> None:
        self.text = ""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, UserError | OSError):
            self.text = str(error)
        elif isinstance(error, Exception):
            self.text = "".join(traceback.format_exception(error))
        return isinstance(error, Exception)
