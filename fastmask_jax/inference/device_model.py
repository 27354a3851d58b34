"""Runs the network on all local devices: padded images → decoded windows.

Letters: B images per batch, H, W padded sides, K windows per image.
"""

import copy
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fastmask_jax.data.batches import InferenceBatch
from fastmask_jax.models.fastmask import Decoded, FastMask
from fastmask_jax.models.inference_variables import inference_variables

QUIET_SECONDS = 2.0  # longer compilations are reported

Report = Callable[[str], None]


class DeviceModel:
    """A model with its weights on every local device. Thread-safe.

    One program is compiled for each padded shape, batch size and count, when it is first needed.

    Attributes:
      compile_seconds: total time for tracing programs and for compiling them or reading them from the cache.
    """

    def __init__(self, model: FastMask, variables: Any, report: Report, precision: str) -> None:
        """
        Args:
          model: the network.
          variables: its collections (`params`, `frozen_stats`, `batch_stats`).
          precision: precision of the products, see `inference_variables`.
          report: called from another thread with a line of text if compilation takes long.
        """
        mesh = Mesh(np.array(jax.local_devices()), ("devices",))
        self._by_image = NamedSharding(mesh, PartitionSpec("devices"))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._model, self._precision = model, precision
        self._variables = self._prepared(variables)
        self._report = report
        self._programs: dict[tuple[int, ...], jax.stages.Compiled] = {}
        self._compiling = threading.Lock()
        self.compile_seconds = 0.0

        # The weights are an argument of the compiled function: as constants they would be folded for minutes.
        def propose(variables: Any, image: jax.Array, size: jax.Array, count: int) -> Decoded:
            return model.apply(variables, image, size, count, method="propose")

        self._propose = jax.jit(propose, static_argnums=3, out_shardings=self._by_image)

    def with_variables(self, variables: Any) -> "DeviceModel":
        """Returns the same model with other weights; compiled programs are shared."""
        other = copy.copy(self)
        other._variables = self._prepared(variables)
        return other

    def _prepared(self, variables: Any) -> Any:
        platform = self._by_image.mesh.devices.flat[0].platform
        variables = jax.device_put(variables, self._everywhere)
        return inference_variables(self._model, variables, self._precision, platform)

    @property
    def variables(self) -> Any:
        """The weights and statistics, in the precision of the products, on every local device."""
        return {name: collection for name, collection in self._variables.items() if name != "spectra"}

    @property
    def devices(self) -> int:
        """Number of local devices; the rows of a batch must be a multiple of it."""
        return self._by_image.mesh.size

    def __call__(self, batch: InferenceBatch, count: int) -> Decoded:
        """Starts decoding the top `count` windows of each image, without waiting; results stay on the devices.

        The first call of a program compiles it; other threads that need a new program wait.
        """
        image, size = jax.device_put((batch.image, batch.size), self._by_image)
        name = (*batch.image.shape[:3], count)
        if name not in self._programs:
            with self._compiling:
                if name not in self._programs:
                    begin = time.perf_counter()
                    lowered = self._propose.lower(self._variables, image, size, count)
                    # Reading a program from the cache takes a fraction of the tracing time, also on slow machines.
                    quiet = max(QUIET_SECONDS, time.perf_counter() - begin)
                    with _explained(self._report, quiet, *batch.image.shape[1:3]):
                        self._programs[name] = lowered.compile()
                    self.compile_seconds += time.perf_counter() - begin
        return self._programs[name](self._variables, image, size)


@contextmanager
def _explained(report: Report, quiet: float, height: int, width: int) -> Iterator[None]:
    """Reports that the block is compiling if it takes longer than `quiet` seconds."""
    cache = jax.config.jax_compilation_cache_dir if jax.config.jax_enable_compilation_cache else None
    where = f"cached in {cache}" if cache else "kept by this process"
    timer = threading.Timer(quiet, report, [f"compiling for {height} x {width} images ... once; {where}"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
