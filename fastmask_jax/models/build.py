"""Builds the network from the `model` section of a config.

A body is a module of its own and a row of BODIES (and, for weights with PyTorch names, a row of
`weights.torch_layout.BODY_NAMES`); a neck is a function and a row of `neck.NECKS` (docs/extending.md).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fastmask_jax.errors import InvalidInput
from fastmask_jax.models.efficientnet import EfficientNetLite
from fastmask_jax.models.fastmask import FastMask
from fastmask_jax.models.heads import HEADS
from fastmask_jax.models.neck import NECKS
from fastmask_jax.models.resnet import ResNet
from fastmask_jax.models.windows import MAP_FORMS

DTYPES = ("float32", "bfloat16")
BODIES = {"resnet": ResNet, "efficientnet_lite": EfficientNetLite}


def build_model(model: Mapping[str, Any], axis_name: str | None = None) -> FastMask:
    """Builds the network that a config's `model` section describes.

    Args:
      model: fields of FastMask, with `body`: {"kind": a key of BODIES, and the fields of that body}, and `dtype` by
        name.
      axis_name: device axis of the window norm's moments in training.

    Raises:
      ValueError: an unknown body, neck, head, form or dtype, or a field that body or network does not have.
    """
    fields = dict(model)
    name = fields.pop("dtype")
    body_fields = dict(fields.pop("body"))
    kind = body_fields.pop("kind")
    if name == "float16":
        raise InvalidInput("model.dtype='float16' overflows without a scaled loss: 'bfloat16' has float32's range")
    _choose("dtype", name, DTYPES)
    _choose("body.kind", kind, sorted(BODIES))
    _choose("neck", fields.get("neck", FastMask.neck), list(NECKS))
    _choose("head", fields.get("head", FastMask.head), HEADS)
    _choose("train_form", fields.get("train_form", FastMask.train_form), ("gather", "patches"))
    _choose("score_form", fields.get("score_form", FastMask.score_form), MAP_FORMS)
    dtype = jnp.dtype(name)
    try:
        body = BODIES[kind](**_tuples(body_fields), dtype=dtype)
        return FastMask(body=body, **_tuples(fields), axis_name=axis_name, dtype=dtype)
    except TypeError as error:
        raise InvalidInput(f"the config's model section does not fit the {kind} network: {error}") from None


def initial_variables(model: FastMask, seed: int) -> dict[str, Any]:
    """Returns initial weights and statistics; they do not depend on the image size."""
    image = jnp.zeros((1, 64, 64, 3))
    size = jnp.full((1, 2), 64, jnp.int32)
    windows = jnp.zeros((1, 1, 3), jnp.int32)
    return jax.jit(model.clone(axis_name=None).init)(jax.random.key(seed), image, size, windows, windows)


def _choose(key: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InvalidInput(f"model.{key}={value!r} is not one of {list(allowed)}")


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list | tuple) else value for key, value in fields.items()}
