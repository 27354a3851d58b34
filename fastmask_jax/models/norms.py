"""The two batch norms of FastMask: the frozen one of body and mask head, and the one over all sliding windows.

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
    """Batch norm with stored statistics, which training never changes (docs/network.md §1).

    The statistics live in the collection `frozen_stats` (mean, var), scale and bias in `params`. A body that starts
    from nothing has no statistics worth storing: `apply(..., mutable=["frozen_stats"])` measures them on its input,
    layer after layer in one pass, over the images' own cells.

    Attributes:
      trained: whether gradients reach scale and bias.
      dtype: of the result.
      epsilon: added to the variance.
    """

    trained: bool = False
    dtype: DTypeLike = jnp.float32
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Float[Array, "... C"], size: Size | None = None, stride: int = 1) -> Float[Array, "... C"]:
        """Normalizes `x`; `size` and `stride` (see models.padding) say which cells count when it measures."""
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
        # In float32 even where x is bfloat16: the compiler fuses the casts, and the rounding happens once.
        return (x * factor + (bias - mean.value * factor)).astype(self.dtype)


class WindowNorm(nn.Module):
    """Batch norm over all sliding windows of all levels (docs/network.md §1), without building any window.

    A cell is worth as many window entries as windows cover it, and each window's cells outside the map are zeros that
    count, too: so the moments follow from the maps alone. Returns the factor and the shift that normalize a value, to
    be applied to cells and to the zeros around the map alike.

    Running averages are bias-corrected like those of the authors' files: `weight` is the sum of the decayed weights, so
    the first batch is the first average whatever the decay is.

    Attributes:
      decay: of the running averages, per step.
      axis_name: device axis over which training moments are taken.
    """

    decay: float = 0.999
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, levels: Sequence[Float[Array, "B _h _w C"]], size: Size, strides: Sequence[int], train: bool
    ) -> tuple[Float[Array, "C"], Float[Array, "C"]]:
        """(factor [C], shift [C]), float32, such that `x * factor + shift` is the normalized x.

        Args:
          levels: feature maps, zero in the padding.
          size: resized image sizes in pixels.
          strides: of the levels.
          train: take the moments of these windows and update the running ones; else use the stored ones.
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
    """Mean and variance per channel over every entry of every window of all images, float32.

    In two passes (the mean first), since E[x²] − E[x]² loses half of float32's digits.
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
    """How many of an image's windows cover each cell of its level (geometry.cover_counts, by image); zero beyond it."""
    own = valid_cells(size, stride)

    def along(cells: int, own_side: jax.Array) -> jax.Array:
        r = jnp.arange(cells)[None, :]
        covering = jnp.minimum(own_side, r + HALF_WINDOW) - jnp.maximum(0, r - HALF_WINDOW + 1) + 1
        return jnp.where(r < own_side, covering, 0).astype(jnp.float32)

    return along(h, own[:, :1])[:, :, None] * along(w, own[:, 1:])[:, None, :]


def _weighted_sum(x: Float[Array, "B h w C"], count: Float[Array, "B h w"]) -> Float[Array, "C"]:
    return jnp.einsum("bhwc,bhw->c", x, count, precision=jax.lax.Precision.HIGHEST)
