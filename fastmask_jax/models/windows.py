"""Sliding windows: 10x10 cells of a level, centered on every corner between cells (docs/network.md §1).

Window (i, j) of an h x w level covers rows i - 5 ... i + 4 and columns j - 5 ... j + 4. The level has (h + 1) x (w + 1)
windows, and cells outside the map are zero *before* the window norm. Four forms compute the same results:

  patches  extracts all windows of a level by `lax.conv_general_dilated_patches`
  gather   copies selected windows by index
  conv     builds no windows: a fully connected layer over every window of a level is a 10x10 convolution
  fourier  the same convolution by Fourier transforms of tiles (models/window_correlation.py)

Letters: B images, h, w cells of a level, C channels, K windows per image, M cells of all levels together, F features,
N windows of all levels.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from fastmask_jax.geometry import HALF_WINDOW, WINDOW
from fastmask_jax.models.padding import Size, valid_cells
from fastmask_jax.models.products import product
from fastmask_jax.models.window_correlation import correlate_maps, kernel_spectrum


@jax.custom_vjp
def extract_patches(x: Float[Array, "B H W C"]) -> Float[Array, "B h2 w2 D"]:
    """Extracts every 10x10 window inside an H x W map: [B, H - 9, W - 9, C * 100], channel-major (C, row, column).

    The forward pass is `lax.conv_general_dilated_patches` at full precision, because it is a convolution with a one-hot
    kernel that lower precisions would round. Its default gradient is a transposed convolution with that kernel, whose
    cost is quadratic in C; the custom gradient is the equivalent sum of 100 shifted maps, by columns and then by rows.
    """
    return lax.conv_general_dilated_patches(
        x,
        (WINDOW, WINDOW),
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=lax.Precision.HIGHEST,
    )


def _extract_forward(x: jax.Array) -> tuple[jax.Array, tuple[int, ...]]:
    return extract_patches(x), x.shape


def _extract_backward(shape: tuple[int, ...], g: jax.Array) -> tuple[jax.Array]:
    rows, columns = g.shape[1:3]
    g = g.reshape(*g.shape[:3], shape[3], WINDOW, WINDOW)
    bands = jnp.zeros((*g.shape[:2], *shape[2:], WINDOW), g.dtype)  # [B, h2, W, C, row]: columns summed, rows to come
    for c in range(WINDOW):
        bands = bands.at[:, :, c : c + columns].add(g[..., c])
    grad = jnp.zeros(shape, g.dtype)
    for r in range(WINDOW):
        grad = grad.at[:, r : r + rows].add(bands[..., r])
    return (grad,)


extract_patches.defvjp(_extract_forward, _extract_backward)


def surround(x: Float[Array, "B h w C"]) -> Float[Array, "B H W C"]:
    """Pads five cells of zeros on every side, so that the 10x10 windows inside are those of the level."""
    return jnp.pad(x, ((0, 0), (HALF_WINDOW, HALF_WINDOW), (HALF_WINDOW, HALF_WINDOW), (0, 0)))


def flatten_levels(levels: Sequence[Float[Array, "B _h _w C"]]) -> Float[Array, "B M1 C"]:
    """Flattens the cells of all levels, row by row, and appends one cell of zeros for the outside: M1 = M + 1."""
    rows = [x.reshape(x.shape[0], -1, x.shape[-1]) for x in levels]
    return jnp.concatenate([*rows, jnp.zeros_like(rows[0][:, :1])], axis=1)


def window_cells(
    windows: Int[Array, "B K 3"], size: Size, strides: Sequence[int], padded: Sequence[tuple[int, int]]
) -> Int[Array, "B K 10 10"]:
    """Returns the index in `flatten_levels` of each cell of each window; M, the zero cell, outside the image's map.

    Args:
      windows: (level, i, j).
      size: resized image sizes in pixels.
      strides: strides of the levels.
      padded: (h, w) of the padded level maps that were flattened.
    """
    areas = np.array([h * w for h, w in padded])
    starts = jnp.asarray(np.cumsum(areas) - areas, jnp.int32)
    own = jnp.stack([valid_cells(size, s) for s in strides], axis=1)  # [B, L, 2]
    level = windows[..., 0]
    own = jnp.take_along_axis(own, level[..., None], axis=1)[..., None, None, :]  # [B, K, 1, 1, 2]
    offset = jnp.arange(WINDOW) - HALF_WINDOW
    r = windows[..., 1, None, None] + offset[:, None]  # [B, K, 10, 1]
    c = windows[..., 2, None, None] + offset[None, :]  # [B, K, 1, 10]
    inside = (r >= 0) & (r < own[..., 0]) & (c >= 0) & (c < own[..., 1])
    width = jnp.asarray([w for _, w in padded], jnp.int32)[level][..., None, None]
    return jnp.where(inside, starts[level][..., None, None] + r * width + c, int(areas.sum()))


def gather_windows(cells: Float[Array, "B M1 C"], index: Int[Array, "B K 10 10"]) -> Float[Array, "B K 10 10 C"]:
    """Gathers the windows of `window_cells` from flattened (and normalized) cells."""
    cells = lax.optimization_barrier(cells)  # otherwise what computes them is computed for every cell of every window
    return jax.vmap(lambda rows, at: rows.at[at].get(mode="promise_in_bounds"))(cells, index)


class WindowDense(nn.Module):
    """A fully connected layer over windows: 10 * 10 * C → F.

    The kernel is stored as (10, 10, C, F), so that it is also a convolution kernel. The collection `spectra` may hold
    its transform (see `inference_variables`), so that it is not computed again for every image.
    """

    features: int
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32

    def __call__(self, windows: Float[Array, "... 10 10 C"]) -> Float[Array, "... F"]:
        """Applies the layer to windows."""
        kernel, bias = self._parameters(windows.shape[-1])
        x = windows.reshape(*windows.shape[:-3], -1)
        return product(x, kernel.reshape(-1, self.features), self.dtype) + bias

    def over_maps(self, maps: Sequence[Float[Array, "B _H _W C"]], form: str) -> Float[Array, "B N F"]:
        """Applies the layer to every window inside zero-padded maps, map by map and row by row.

        Args:
          maps: levels as `surround` returns them.
          form: one of MAP_FORMS. "auto" is the fastest form on each platform (benchmarks/windows.py).
        """
        maps = [x.astype(self.dtype) for x in maps]
        kernel, bias = self._parameters(maps[0].shape[-1])
        kernel = kernel.astype(self.dtype)
        if self.has_variable("spectra", "kernel"):
            y = correlate_maps(maps, self.get_variable("spectra", "kernel")).astype(self.dtype)
        elif form == "auto":
            y = lax.platform_dependent(maps, kernel, cpu=_FORMS["fourier"], default=_FORMS["patches"])
        else:
            y = _FORMS[form](maps, kernel)
        return y + bias

    @nn.compact
    def _parameters(self, channels: int) -> tuple[jax.Array, jax.Array]:
        init = nn.initializers.variance_scaling(2.0, "fan_in", "normal", in_axis=(0, 1, 2), out_axis=3)
        kernel = self.param("kernel", init, (WINDOW, WINDOW, channels, self.features), jnp.float32)
        bias = jnp.zeros((), self.dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return kernel, bias.astype(self.dtype)


def _multiply_patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return extract_patches(x) @ kernel.transpose(2, 0, 1, 3).reshape(-1, kernel.shape[-1])


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _map_by_map(form: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    def over(maps: Sequence[jax.Array], kernel: jax.Array) -> jax.Array:
        results = [form(x, kernel) for x in maps]
        return jnp.concatenate([y.reshape(y.shape[0], -1, y.shape[-1]) for y in results], axis=1)

    return over


_FORMS = {
    "fourier": lambda maps, kernel: correlate_maps(maps, kernel_spectrum(kernel)).astype(kernel.dtype),
    "patches": _map_by_map(_multiply_patches),
    "conv": _map_by_map(_convolve),
}
MAP_FORMS = ("auto", *_FORMS)
