"""From the `model` section of a config to the network."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fastmask_jax.errors import InvalidInput
from fastmask_jax.models.efficientnet import EfficientNetLite
from fastmask_jax.models.fastmask import FastMask
from fastmask_jax.models.resnet import ResNet

DTYPES = ("float32", "bfloat16", "float16")
BODIES = {"resnet": ResNet, "efficientnet_lite": EfficientNetLite}


def build_model(model: Mapping[str, Any], axis_name: str | None = None) -> FastMask:
    """The network that a config's `model` section describes.

    Args:
      model: fields of FastMask, with `body`: {"kind": a key of BODIES, and the fields of that body}, and `dtype` by
        name.
      axis_name: device axis of the window norm's moments in training.

    Errors:
      ValueError: an unknown body, or a field that body or network does not have.
    """
    fields = dict(model)
    name = fields.pop("dtype")
    if name not in DTYPES:
        raise InvalidInput(f"model.dtype={name!r} is not one of {list(DTYPES)}")
    dtype = jnp.dtype(name)
    body_fields = dict(fields.pop("body"))
    kind = body_fields.pop("kind")
    if kind not in BODIES:
        raise InvalidInput(f"model.body.kind={kind!r} is not one of {sorted(BODIES)}")
    try:
        body = BODIES[kind](**_tuples(body_fields), dtype=dtype)
        return FastMask(body=body, **_tuples(fields), axis_name=axis_name, dtype=dtype)
    except TypeError as error:
        raise InvalidInput(f"the config's model section does not fit the {kind} network: {error}") from None


def initial_variables(model: FastMask, seed: int) -> dict[str, Any]:
    """Weights and statistics before training; they do not depend on the size of the images."""
    image = jnp.zeros((1, 64, 64, 3))
    size = jnp.full((1, 2), 64, jnp.int32)
    windows = jnp.zeros((1, 1, 3), jnp.int32)
    return jax.jit(model.clone(axis_name=None).init)(jax.random.key(seed), image, size, windows, windows)


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list | tuple) else value for key, value in fields.items()}
