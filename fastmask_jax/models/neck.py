"""The neck: downsamples a feature map by 2, with shared weights for every step of every stream (docs/network.md §1).

A kind of neck is a function of (x, size, stride, hidden, dtype) and a row of `config_schema.NECKS` (docs/extending.md).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from fastmask_jax.config_schema import NECKS, implementation
from fastmask_jax.models.padding import Size, average_pool2, mask_padding, max_pool2
from fastmask_jax.models.products import Conv3x3, Dense


def average(x: jax.Array, size: Size, stride: int, hidden: int, dtype: DTypeLike) -> jax.Array:
    """Computes avgpool2(x); no parameters."""
    return average_pool2(x, size, stride)


def maximum(x: jax.Array, size: Size, stride: int, hidden: int, dtype: DTypeLike) -> jax.Array:
    """Computes maxpool2(x); no parameters."""
    return max_pool2(x, size, stride)


def residual(x: jax.Array, size: Size, stride: int, hidden: int, dtype: DTypeLike) -> jax.Array:
    """Computes relu(avgpool2(x) + avgpool2(conv1x1(relu(conv3x3(x))))); the convolutions start near zero."""
    return nn.relu(
        average_pool2(x + _convolved(x, size, stride, hidden, dtype, nn.initializers.normal(1e-5)), size, stride)
    )


def feedforward(x: jax.Array, size: Size, stride: int, hidden: int, dtype: DTypeLike) -> jax.Array:
    """Computes relu(avgpool2(conv1x1(relu(conv3x3(x)))))."""
    # Without a shortcut for the features, the convolutions must not start near zero.
    return nn.relu(average_pool2(_convolved(x, size, stride, hidden, dtype, nn.initializers.he_normal()), size, stride))


class Neck(nn.Module):
    """One downsampling step of the pyramid.

    Attributes:
      kind: a key of `config_schema.NECKS`.
      hidden: channels between the two convolutions, if the neck has them.
      dtype: dtype of the computation.
    """

    kind: str = "residual"
    hidden: int = 256
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"], size: Size, stride: int) -> Float[Array, "B h2 w2 C"]:
        """Maps `x` at `stride` to `2 * stride`; both are zero in the padding."""
        return implementation(NECKS[self.kind])(x, size, stride, self.hidden, self.dtype)


def _convolved(
    x: jax.Array, size: Size, stride: int, hidden: int, dtype: DTypeLike, init: nn.initializers.Initializer
) -> jax.Array:
    y = Conv3x3(hidden, kernel_init=init, dtype=dtype, name="conv1")(x)
    y = Dense(x.shape[-1], kernel_init=init, dtype=dtype, name="conv2")(nn.relu(y))
    return mask_padding(y, size, stride)
