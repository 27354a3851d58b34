"""1x1 convolutions as matrix products."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class Pointwise(nn.Module):
    """A 1x1 convolution with a stride, written as one matrix product over the cells that it keeps.

    The same numbers as `nn.Conv(features, (1, 1), (stride, stride))`; on the CPU XLA runs the
    gradient of the product several times faster than that of the convolution (benchmarks/pointwise.py).

    Attributes:
      features: F, channels out.
      stride: of the kernel; cells 0, stride, 2 stride ... are kept.
      use_bias, kernel_init, dtype: as in nn.Dense; the kernel is [C, F], float32.
    """

    features: int
    stride: int = 1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h2 w2 F"]:
        """[B, h, w, C] → [B, ceil(h / stride), ceil(w / stride), F]."""
        x = x[:, :: self.stride, :: self.stride].astype(self.dtype)
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32).astype(self.dtype)
        y = (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], self.features)
        if self.use_bias:
            y += self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)
        return y
