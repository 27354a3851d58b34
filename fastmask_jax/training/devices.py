"""Runs the step on several devices and processes; the only file that uses `pmap`.

The step refers to devices only by an axis name, so another mapping, such as `shard_map`, changes only this file.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fastmask_jax.errors import InvalidInput
from fastmask_jax.training.step import Step

AXIS = "devices"


def replicate(state: Any) -> Any:
    """Copies `state` to every local device for the mapped step (which may donate it)."""
    mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
    return jax.device_put(state, NamedSharding(mesh, PartitionSpec()), may_alias=False)


def one_copy(state: Any) -> Any:
    """Returns one local device's copy of a replicated state."""
    return jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, state)


def map_over_devices(step: Step) -> Step:
    """Maps the step over all devices of all processes: one compiled program; the state is replicated and donated.

    The batch has a leading axis of local devices (see `split`); metrics are returned as scalars.
    """
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, donate_argnums=(0,))


def split(batch: Any) -> Any:
    """Reshapes every array of a batch from [B, ...] to [local devices, B / local devices, ...]."""
    devices = jax.local_device_count()
    return jax.tree.map(lambda x: x.reshape(devices, len(x) // devices, *x.shape[1:]), batch)


def shared_batch_size(batch_size: int) -> int:
    """Returns the smallest batch size, at least `batch_size`, that all devices of all processes can share evenly."""
    devices = jax.device_count()
    return -(-batch_size // devices) * devices


def check_batch_size(batch_size: int) -> None:
    """Raises InvalidInput if the devices of all processes cannot share a run's batch evenly."""
    devices = jax.device_count()
    if batch_size % devices:
        raise InvalidInput(
            f"this run has a batch of {batch_size} images, which {devices} devices cannot share evenly: go on with "
            f"fewer devices (CUDA_VISIBLE_DEVICES), or start a new run in another --workdir"
        )
