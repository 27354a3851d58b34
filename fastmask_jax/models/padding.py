"""Masks and pooling for padded maps, independent of the padding.

Letters: B images, h, w cells of a padded map at stride s, C channels. `size` is [B, 2] int32: the (height, width) of
each resized image in pixels; the image occupies the first ceil(height / s) rows and ceil(width / s) columns of a map.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float, Int

Size = Int[Array, "B 2"]


def valid_cells(size: Size, stride: int) -> Int[Array, "B 2"]:
    """Returns the rows and columns of each image at `stride`: ceil(size / stride)."""
    return (size + stride - 1) // stride


def valid_mask(size: Size, stride: int, h: int, w: int) -> Bool[Array, "B h w"]:
    """Returns True for cells of a padded h x w map at `stride` that belong to the image."""
    own = valid_cells(size, stride)
    rows = jnp.arange(h)[None, :] < own[:, :1]  # [B, h]
    columns = jnp.arange(w)[None, :] < own[:, 1:]  # [B, w]
    return rows[:, :, None] & columns[:, None, :]


def mask_padding(x: Float[Array, "B h w C"], size: Size, stride: int) -> Float[Array, "B h w C"]:
    """Sets the padding of each image to zero, like the zero padding of the unpadded image."""
    inside = valid_mask(size, stride, x.shape[1], x.shape[2])
    return jnp.where(inside[..., None], x, jnp.zeros((), x.dtype))


def average_pool2(x: Float[Array, "B h w C"], size: Size, stride: int) -> Float[Array, "B h2 w2 C"]:
    """Computes 2x2/2 average pooling with ceiling; border cells average existing cells only (docs/network.md §1).

    Args:
      x: map at `stride`, zero in the padding.
      size: resized image sizes in pixels.
      stride: stride of `x`; the result has twice this stride.
    """
    inside = valid_mask(size, stride, x.shape[1], x.shape[2]).astype(jnp.float32)[..., None]
    total = nn.avg_pool(x, (2, 2), (2, 2), _ceiling_padding(x), count_include_pad=True)
    share = nn.avg_pool(inside, (2, 2), (2, 2), _ceiling_padding(x), count_include_pad=True)
    return total * (1.0 / jnp.where(share > 0, share, 1.0)).astype(x.dtype)


def max_pool2(x: Float[Array, "B h w C"], size: Size, stride: int) -> Float[Array, "B h2 w2 C"]:
    """Computes 2x2/2 max pooling with ceiling over existing cells; zero in the padding."""
    inside = valid_mask(size, stride, x.shape[1], x.shape[2])
    lowest = jnp.where(inside[..., None], x, jnp.finfo(x.dtype).min)
    return mask_padding(nn.max_pool(lowest, (2, 2), (2, 2), _ceiling_padding(x)), size, 2 * stride)


def max_pool3(x: Float[Array, "B h w C"], begin: int) -> Float[Array, "B h2 w2 C"]:
    """Computes 3x3 max pooling with stride 2 of a map without negative values, of even sides; zeros lie around it.

    The maxima are those of shifted maps: on the CPU, XLA's own pooling takes several times as long, above all its
    gradient.

    Args:
      x: the map.
      begin: rows and columns of zeros before the map that belong to the first windows: 0 or 1.
    """
    images, height, width, channels = x.shape
    rows = x.reshape(images, height // 2, 2, width * channels)
    x = _max_of_three(rows[:, :, 0], rows[:, :, 1], begin, axis=1)
    x = lax.optimization_barrier(x)  # without it, the maxima of rows are computed three times
    columns = x.reshape(images, height // 2, width // 2, 2, channels)
    return _max_of_three(columns[:, :, :, 0], columns[:, :, :, 1], begin, axis=2)


def _max_of_three(even: jax.Array, odd: jax.Array, begin: int, axis: int) -> jax.Array:
    """Returns the maximum of cells 2n - begin ... 2n - begin + 2 along an axis, from its even and odd cells."""
    nearest = odd if begin else even  # of the pair before, or of the next one
    ends = [(0, 0)] * even.ndim
    ends[axis] = (begin, 1 - begin)
    third = lax.slice_in_dim(jnp.pad(nearest, ends), 1 - begin, 1 - begin + even.shape[axis], axis=axis)
    return jnp.maximum(jnp.maximum(even, odd), third)


def _ceiling_padding(x: jax.Array) -> tuple[tuple[int, int], tuple[int, int]]:
    return (0, x.shape[1] % 2), (0, x.shape[2] % 2)
