"""The two batch norms of FastMask: frozen, in body and mask head; and over all sliding windows.

Letters: B images, L levels, h, w cells of a level, C channels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from fastmask_jax.geometry import HALF_WINDOW, WINDOW
from fastmask_jax.models.padding import Size, valid_cells, valid_mask

EPSILON = 1e-5


class FrozenNorm(nn.Module):
    """Batch norm with fixed statistics (docs/network.md §1).

    The collection `frozen_stats` holds the statistics (mean, var), `params` scale and bias. For a body with random
    weights, `apply(..., mutable=["frozen_stats"])` measures the statistics on its input, layer after layer in one pass,
    over the cells of the images without padding.

    Attributes:
      trained: whether gradients reach scale and bias.
      dtype: dtype of the result.
      epsilon: added to the variance.
    """

    trained: bool = False
    dtype: DTypeLike = jnp.float32
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Float[Array, "... C"], size: Size | None = None, stride: int = 1) -> Float[Array, "... C"]:
        """Normalizes `x`; `size` and `stride` (see models.padding) select the cells that count in a measurement."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        mean = self.variable("frozen_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        var = self.variable("frozen_stats", "var", jnp.ones, (channels,), jnp.float32)
        measuring = size is not None and self.is_mutable_collection("frozen_stats") and not self.is_initializing()
        if measuring:
            count = valid_mask(size, stride, x.shape[1], x.shape[2]).astype(jnp.float32)[..., None]
            mean.value = jnp.sum(x * count, (0, 1, 2)) / jnp.sum(count)
            var.value = jnp.sum(jnp.square(x - mean.value) * count, (0, 1, 2)) / jnp.sum(count)
        if not self.trained:
            scale, bias = jax.lax.stop_gradient((scale, bias))
        factor = scale * jax.lax.rsqrt(var.value + self.epsilon)
        # Computes in float32 even for bfloat16 inputs: the compiler fuses the casts, and values are rounded once.
        return (x * factor + (bias - mean.value * factor)).astype(self.dtype)


class WindowNorm(nn.Module):
    """Batch norm over all sliding windows of all levels (docs/network.md §1), without building windows.

    Each cell counts once per window that covers it, and window cells outside the map count as zeros, so the moments
    follow from the maps. Returns a factor and a shift that normalize cells as well as the zeros around the map.

    Running averages are bias-corrected as in the authors' files: `weight` is the sum of the decayed weights, so the
    first average equals the first batch for every decay.

    Attributes:
      decay: decay per step of the running averages.
      axis_name: device axis over which training moments are taken.
    """

    decay: float = 0.999
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, levels: Sequence[Float[Array, "B _h _w C"]], size: Size, strides: Sequence[int], train: bool
    ) -> tuple[Float[Array, "C"], Float[Array, "C"]]:
        """Returns (factor [C], shift [C]), float32, such that `x * factor + shift` is the normalized x.

        Args:
          levels: feature maps, zero in the padding.
          size: resized image sizes in pixels.
          strides: strides of the levels.
          train: use the moments of these windows and update the running averages; otherwise use the stored ones.
        """
        channels = levels[0].shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        weight = self.variable("batch_stats", "weight", jnp.zeros, (), jnp.float32)
        if train and not self.is_initializing():
            now = window_moments(levels, size, strides, self.axis_name)
            new_weight = self.decay * weight.value + 1.0
            mean.value += (now[0] - mean.value) / new_weight
            var.value += (now[1] - var.value) / new_weight
            weight.value = new_weight
        else:
            now = mean.value, var.value
        factor = scale * jax.lax.rsqrt(now[1] + EPSILON)
        return factor, bias - now[0] * factor


def window_moments(
    levels: Sequence[Float[Array, "B _h _w C"]], size: Size, strides: Sequence[int], axis_name: str | None = None
) -> tuple[Float[Array, "C"], Float[Array, "C"]]:
    """Computes mean and variance per channel over every entry of every window of all images, float32.

    Uses two passes (the mean first), because E[x²] − E[x]² loses half of float32's digits.
    """

    def total(value: jax.Array) -> jax.Array:
        return value if axis_name is None else jax.lax.psum(value, axis_name)

    counts = [window_counts(size, s, x.shape[1], x.shape[2]) for x, s in zip(levels, strides, strict=True)]
    windows = sum(jnp.sum(jnp.prod(valid_cells(size, s) + 1, axis=1)) for s in strides)
    entries = total(windows.astype(jnp.float32) * WINDOW**2)
    covered = total(sum(jnp.sum(c) for c in counts))
    mean = total(sum(_weighted_sum(x.astype(jnp.float32), c) for x, c in zip(levels, counts, strict=True))) / entries
    squares = total(
        sum(_weighted_sum(jnp.square(x.astype(jnp.float32) - mean), c) for x, c in zip(levels, counts, strict=True))
    )
    return mean, (squares + (entries - covered) * jnp.square(mean)) / entries


def window_counts(size: Size, stride: int, h: int, w: int) -> Float[Array, "B h w"]:
    """Counts the windows of an image that cover each cell; zero in the padding.

    Along an axis, window i covers cells i - 5 ... i + 4, so cell r lies in windows r - 4 ... r + 5 that exist.
    """
    own = valid_cells(size, stride)

    def along(cells: int, own_side: jax.Array) -> jax.Array:
        r = jnp.arange(cells)[None, :]
        covering = jnp.minimum(own_side, r + HALF_WINDOW) - jnp.maximum(0, r - HALF_WINDOW + 1) + 1
        return jnp.where(r < own_side, covering, 0).astype(jnp.float32)

    return along(h, own[:, :1])[:, :, None] * along(w, own[:, 1:])[:, None, :]


def _weighted_sum(x: Float[Array, "B h w C"], count: Float[Array, "B h w"]) -> Float[Array, "C"]:
    return jnp.einsum("bhwc,bhw->c", x, count, precision=jax.lax.Precision.HIGHEST)
