"""The neck: halves a feature map, on one set of weights for every step of every stream (docs/network.md §1)."""

from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from fastmask_jax.models.padding import Size, average_pool2, mask_padding, max_pool2
from fastmask_jax.models.pointwise import Pointwise

NeckKind = Literal["residual", "average", "max", "feedforward"]


class Neck(nn.Module):
    """One step down the pyramid.

    residual:     relu(avgpool2(x) + avgpool2(conv1x1(relu(conv3x3(x))))), the convolutions near zero at the start
    feedforward:  relu(avgpool2(conv1x1(relu(conv3x3(x)))))
    average, max: pooling alone, without parameters

    Attributes:
      kind: one of the four above.
      hidden: channels between the two convolutions.
      dtype: of the computation.
    """

    kind: NeckKind = "residual"
    hidden: int = 256
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"], size: Size, stride: int) -> Float[Array, "B h2 w2 C"]:
        """`x` at `stride` → the map at `2 * stride`; both zero in the padding."""
        if self.kind == "average":
            return average_pool2(x, size, stride)
        if self.kind == "max":
            return max_pool2(x, size, stride)
        # A feed-forward neck has nothing else to pass the features on: it must not start near zero.
        init = nn.initializers.normal(1e-5) if self.kind == "residual" else nn.initializers.he_normal()
        y = nn.Conv(self.hidden, (3, 3), padding=1, dtype=self.dtype, kernel_init=init, name="conv1")(x)
        y = Pointwise(x.shape[-1], kernel_init=init, dtype=self.dtype, name="conv2")(nn.relu(y))
        y = mask_padding(y, size, stride)
        y = average_pool2(x + y if self.kind == "residual" else y, size, stride)
        return nn.relu(y)
