"""Matrix products, and 1x1 and 3x3 convolutions, in the precision in which their kernels are stored.

Letters: B images, h, w cells of a map, C input channels, F output channels.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def product_dtype(kernel: jax.Array, dtype: DTypeLike) -> jnp.dtype:
    """Returns the dtype in which a layer multiplies: `dtype`, or that of its stored kernel if it has fewer bits.

    In a float32 network whose kernels are stored as bfloat16, products multiply bfloat16 numbers, sum in float32 and
    round the sums to bfloat16; everything else is computed in float32.
    """
    return min(jnp.dtype(dtype), kernel.dtype, key=lambda each: each.itemsize)


def product(x: Float[Array, "... C"], kernel: Float[Array, "C F"], dtype: DTypeLike) -> Float[Array, "... F"]:
    """Computes `x @ kernel` in `product_dtype`; the result has `dtype`."""
    low = product_dtype(kernel, dtype)
    y = jnp.matmul(x.reshape(-1, x.shape[-1]).astype(low), kernel.astype(low))
    return y.reshape(*x.shape[:-1], kernel.shape[-1]).astype(dtype)


class _Layer(nn.Module):
    """What layers of products share.

    Attributes:
      features: F.
      stride: cells 0, stride, 2 stride ... are kept.
      use_bias, kernel_init: as in nn.Conv.
      dtype: dtype of the result; `product_dtype` has the precision.
    """

    features: int
    stride: int = 1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
    dtype: DTypeLike = jnp.float32

    def _kernel(self, *shape: int) -> jax.Array:
        return self.param("kernel", self.kernel_init, (*shape, self.features), jnp.float32)

    def _with_bias(self, y: jax.Array) -> jax.Array:
        if not self.use_bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)


class Dense(_Layer):
    """A fully connected layer, or a strided 1x1 convolution, as one matrix product over the cells it keeps.

    Equal to nn.Dense and to `nn.Conv(features, (1, 1), (stride, stride))` but for the precision; the kernel is [C, F].
    On the CPU, the gradient of the product is several times as fast as that of XLA's convolution
    (benchmarks/pointwise.py).
    """

    @nn.compact
    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... F"]:
        """Maps [..., C] to [..., F]; with a stride, [B, h, w, C] to [B, ceil(h / stride), ceil(w / stride), F]."""
        if self.stride > 1:
            x = x[:, :: self.stride, :: self.stride]
        return self._with_bias(product(x, self._kernel(x.shape[-1]), self.dtype))


class Conv3x3(_Layer):
    """A 3x3 convolution with one cell of zeros around the map; like nn.Conv, but for the precision.

    On the CPU a convolution in bfloat16 is computed as one matrix product over runs of three cells: XLA has fast
    products in bfloat16, but no fast convolutions (benchmarks/convolutions.py). The kernel is [3, 3, C, F].
    """

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h2 w2 F"]:
        """Maps [B, h, w, C] to [B, ceil(h / stride), ceil(w / stride), F]."""
        kernel = self._kernel(3, 3, x.shape[-1])
        return self._with_bias(conv3x3(x, kernel, self.stride, self.dtype))


def conv3x3(
    x: Float[Array, "B h w C"], kernel: Float[Array, "3 3 C F"], stride: int, dtype: DTypeLike
) -> Float[Array, "B h2 w2 F"]:
    """Convolves in `product_dtype`, with one cell of zeros around the map; the result has `dtype`."""
    low = product_dtype(kernel, dtype)
    x, kernel = x.astype(low), kernel.astype(low)

    def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            preferred_element_type=jnp.dtype(dtype),
        )

    if low == jnp.bfloat16 and stride == 1:
        return lax.platform_dependent(x, kernel, cpu=lambda *both: _by_rows(*both, dtype), default=convolution)
    return convolution(x, kernel)


def _by_rows(x: jax.Array, kernel: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Multiplies each run of three cells of a row by the three rows of the kernel at once, and adds up shifted rows."""
    images, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    runs = jnp.concatenate([x[:, :, j : j + width] for j in range(3)], axis=-1)
    y = product(runs, kernel.transpose(1, 2, 0, 3).reshape(3 * channels, -1), dtype)
    y = y.reshape(images, height + 2, width, 3, -1)
    return sum(y[:, i : i + height, :, i] for i in range(3))
