"""The network in use: padded images → the windows that hold objects, with their masks; over all local devices.

Letters: B images of a batch, H, W padded sides, K windows of an image.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fastmask_jax.data.batches import InferenceBatch
from fastmask_jax.models.fastmask import Decoded, FastMask


class Proposer:
    """A model with its weights on every local device.

    It is compiled once for each bucket, batch size and count, and not again for other weights. Thread-safe.
    """

    def __init__(self, model: FastMask, variables: Any, count: int) -> None:
        """
        Args:
          model: the network.
          variables: its collections (`params`, `frozen_stats`, `batch_stats`).
          count: K, proposals of an image, where a call does not say.
        """
        mesh = Mesh(np.array(jax.local_devices()), ("devices",))
        self._by_image = NamedSharding(mesh, PartitionSpec("devices"))
        self._variables = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
        self._model, self._count = model, count
        self.strides = model.strides

    @property
    def devices(self) -> int:
        """Local devices; a batch must be a multiple of them."""
        return self._by_image.mesh.size

    def __call__(self, batch: InferenceBatch, count: int | None = None) -> Decoded:
        """Begins to work on a batch and returns at once; the result's arrays are on the devices until they are read."""
        image, size = jax.device_put((batch.image, batch.size), self._by_image)
        propose = _compiled(self._model, self._count if count is None else count, self._by_image)
        return propose(self._variables, image, size)


@cache
def _compiled(model: FastMask, count: int, by_image: NamedSharding) -> Callable[[Any, jax.Array, jax.Array], Decoded]:
    # The weights are an argument of the compiled function: as constants they would be folded for minutes.
    def propose(variables: Any, image: jax.Array, size: jax.Array) -> Decoded:
        return model.apply(variables, image, size, count, method="propose")

    return jax.jit(propose, out_shardings=by_image)
