"""Builds the network from the `model` section of a config.

A body is a module of its own and a row of `config_schema.BODIES`, a neck a function and a row of `config_schema.NECKS`
(docs/extending.md).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fastmask_jax.config_schema import BODIES, check_model, implementation
from fastmask_jax.models.fastmask import FastMask


def build_model(model: Mapping[str, Any], axis_name: str | None = None) -> FastMask:
    """Builds the network that a config's `model` section describes.

    Args:
      model: fields of FastMask, with `dtype` by name and `body`: {"kind": a key of `config_schema.BODIES`, and the
        settings of that body}.
      axis_name: device axis of the window norm's moments in training.

    Raises:
      ValueError: a setting is missing, unknown or not allowed (see `config_schema`); one line.
    """
    check_model(model)
    fields = dict(model)
    dtype = jnp.dtype(fields.pop("dtype"))
    body_fields = dict(fields.pop("body"))
    kind = body_fields.pop("kind")
    body = implementation(BODIES[kind].module)(**_tuples(body_fields), dtype=dtype)
    return FastMask(body=body, **_tuples(fields), axis_name=axis_name, dtype=dtype)


def initial_variables(model: FastMask, seed: int) -> dict[str, Any]:
    """Returns initial weights and statistics; they do not depend on the image size."""
    image = jnp.zeros((1, 64, 64, 3))
    size = jnp.full((1, 2), 64, jnp.int32)
    windows = jnp.zeros((1, 1, 3), jnp.int32)
    return jax.jit(model.clone(axis_name=None).init)(jax.random.key(seed), image, size, windows, windows)


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list | tuple) else value for key, value in fields.items()}
