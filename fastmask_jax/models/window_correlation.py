"""A fully connected layer over every window of a level, without building the windows.

The layer's kernel is as large as a window, so the results are the correlation of the zero-padded map with the kernel.
The overlap-save method makes it cheap: the map is divided into 16x16 tiles, 7 cells apart, and the product of a tile's
discrete Fourier transform with the kernel's gives 7x7 results. A tile takes 3 · 144 real products of channels instead
of 49 · 100, and the transforms are small matrix products.

Letters: B images, H, W rows and columns of a padded map, C channels, F features, T tiles of all maps of an image,
N windows of an image.
"""

from collections.abc import Sequence
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from fastmask_jax.geometry import WINDOW

TILE = 16
STEP = TILE - WINDOW + 1  # results per tile along each axis
_HALF = TILE // 2 + 1  # frequencies of real rows; the others are their conjugates
_EXACT = lax.Precision.HIGHEST  # large terms cancel, so lower precisions would lose accuracy


def correlate_maps(
    maps: Sequence[Float[Array, "B _H _W C"]], spectrum: Float[Array, "3 16 9 C F"]
) -> Float[Array, "B N F"]:
    """Computes the correlation of every map with a kernel at every window inside it, in float32.

    Args:
      maps: zero-padded maps.
      spectrum: `kernel_spectrum` of the kernel. If it is bfloat16, so are the factors of the products.

    Returns:
      The results of the maps one after another, each row by row: N is the sum of (H - 9) * (W - 9). The difference from
      a direct sum in float32 is that of rounding, about 1e-6 of the largest result.
    """
    spectra, tilings = zip(*(_tile_spectrum(x.astype(jnp.float32)) for x in maps), strict=True)
    results = _invert(_product(jnp.concatenate(spectra, axis=4), spectrum))
    rows, start = [], 0
    for x, (down, across) in zip(maps, tilings, strict=True):
        tiles = results[:, :, :, start : start + down * across]
        start += down * across
        grid = tiles.reshape(STEP, STEP, -1, down, across, tiles.shape[-1]).transpose(2, 3, 0, 4, 1, 5)
        grid = grid.reshape(-1, down * STEP, across * STEP, tiles.shape[-1])
        grid = grid[:, : x.shape[1] - WINDOW + 1, : x.shape[2] - WINDOW + 1]
        rows.append(grid.reshape(grid.shape[0], -1, grid.shape[-1]))
    return jnp.concatenate(rows, axis=1)


def _tile_spectrum(x: Float[Array, "B H W C"]) -> tuple[Float[Array, "2 16 9 B T C"], tuple[int, int]]:
    """Returns the transform of the tiles of a map, (real, imaginary) first, and (tiles down, tiles across)."""
    images, height, width, channels = x.shape
    down, across = (-(-(side - WINDOW + 1) // STEP) for side in (height, width))
    ends = [count * STEP + WINDOW - 1 - side for count, side in ((down, height), (across, width))]
    x = jnp.pad(x, ((0, 0), (0, ends[0]), (0, ends[1]), (0, 0)))
    # Columns are cut into overlapping tiles after the rows are transformed: less work than transforming whole tiles.
    rows = jnp.stack([x[:, t : t + (down - 1) * STEP + 1 : STEP] for t in range(TILE)])
    y = _apply(_transforms().rows, rows)  # [2 * 9, B, down, W, C]
    columns = jnp.stack([y[:, :, :, t : t + (across - 1) * STEP + 1 : STEP] for t in range(TILE)])
    columns = columns.reshape(TILE, 2, -1).swapaxes(0, 1).reshape(2 * TILE, -1)
    spectrum = _apply(_transforms().columns, columns)
    return spectrum.reshape(2, TILE, _HALF, images, down * across, channels), (down, across)


def kernel_spectrum(kernel: Float[Array, "10 10 C F"]) -> Float[Array, "3 16 9 C F"]:
    """Returns the transform of a kernel, padded by zeros to a tile, in float32.

    It is conjugated (for a correlation, not a convolution), and in the form in which three real products replace the
    four of a complex one: real part, real plus imaginary part, imaginary minus real part.
    """
    kernel = kernel.astype(jnp.float32)
    y = _apply(_transforms().rows[:, :WINDOW], kernel)  # [2 * 9, 10, C, F]
    y = y.reshape(2, _HALF, WINDOW, -1).transpose(0, 2, 1, 3).reshape(2 * WINDOW, -1)
    matrix = _transforms().columns.reshape(2 * TILE, 2, TILE)[:, :, :WINDOW].reshape(2 * TILE, 2 * WINDOW)
    real, imaginary = _apply(matrix, y).reshape(2, TILE, _HALF, *kernel.shape[2:])
    return jnp.stack([real, real - imaginary, -imaginary - real])


def _product(x: Float[Array, "2 16 9 B T C"], spectrum: Float[Array, "3 16 9 C F"]) -> Float[Array, "2 16 9 B T F"]:
    """Multiplies the transform of tiles by that of the kernel."""
    real, imaginary = x.reshape(*x.shape[:3], -1, x.shape[-1])

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a.astype(b.dtype), b, precision=_EXACT, preferred_element_type=jnp.float32)

    common = product(real + imaginary, spectrum[0])
    of_imaginary = product(imaginary, spectrum[1])
    of_real = product(real, spectrum[2])
    return jnp.stack([common - of_imaginary, common + of_real]).reshape(*x.shape[:5], spectrum.shape[-1])


def _invert(spectrum: Float[Array, "2 16 9 B T F"]) -> Float[Array, "7 7 B T F"]:
    """Returns the first 7x7 cells of each tile: those that the wrap-around of the transform does not reach."""
    y = _apply(_transforms().inverse_columns, spectrum.reshape(2 * TILE, -1))  # [2 * 7, 9 T F]
    y = y.reshape(2, STEP, _HALF, -1).swapaxes(1, 2).reshape(2 * _HALF, -1)
    return _apply(_transforms().inverse_rows, y).reshape(STEP, STEP, *spectrum.shape[3:])


def _apply(matrix: np.ndarray, x: jax.Array) -> jax.Array:
    """Applies a matrix along the first axis."""
    return jnp.dot(matrix, x.reshape(x.shape[0], -1), precision=_EXACT).reshape(-1, *x.shape[1:])


class _Transforms:
    """The transforms as real matrices; along complex axes, real parts come before imaginary parts.

    Attributes:
      rows: [2 * 9, 16], transforms real rows.
      columns: [2 * 16, 2 * 16], transforms complex columns.
      inverse_columns: [2 * 7, 2 * 16], computes the first seven cells.
      inverse_rows: [7, 2 * 9], computes the first seven cells, which are real.
    """

    def __init__(self) -> None:
        cells, half = np.arange(TILE), np.arange(_HALF)
        wave = np.exp(-2j * np.pi * np.outer(cells, cells) / TILE)
        rows = wave[:_HALF]
        inverse = wave.conj()[:STEP] / TILE
        twice = np.where(half % (TILE // 2), 2, 1) * inverse[:, :_HALF]  # a frequency and its conjugate
        self.rows = np.concatenate([rows.real, rows.imag]).astype(np.float32)
        self.columns = _real(wave)
        self.inverse_columns = _real(inverse)
        self.inverse_rows = np.concatenate([twice.real, -twice.imag], axis=1).astype(np.float32)


@cache
def _transforms() -> _Transforms:
    return _Transforms()


def _real(matrix: np.ndarray) -> np.ndarray:
    """Returns the real matrix that acts on (real, imaginary) like the complex one."""
    return np.block([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]]).astype(np.float32)
