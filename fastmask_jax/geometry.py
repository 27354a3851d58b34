"""Geometry of resized images, pyramid levels and sliding windows. Plain integers and NumPy, no state.

Letters: H, W sides of an image in pixels; s stride of a level in resized pixels; h, w cells of a level;
K windows. A window is the triple (level, i, j): row i and column j of the window grid of a level, centered at pixel
(i * s, j * s) of the resized image. Continuous coordinates: pixel k covers [k, k + 1).
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Float32, Int

from fastmask_jax.errors import InvalidInput

WINDOW = 10  # cells along a window's side
HALF_WINDOW = WINDOW // 2
MASK = 40  # mask logits along a window's side
UPSCALE = 4  # factor of the fixed bilinear upsampling of mask logits
FINE_MASK = MASK * UPSCALE
MULTIPLE = 4  # both sides of a resized image are multiples of this (docs/network.md §1)


def resized_size(height: int, width: int, long_edge: int) -> tuple[int, int]:
    """Returns the (height, width) of an original image resized to a long edge of `long_edge` pixels.

    floor(side * long_edge / max(height, width)), in exact integers, then down to a multiple of 4
    (docs/network.md §1, §3); at least 4, so that a very thin image keeps a row of cells.
    """
    if max(height, width) < 1:
        raise InvalidInput(f"an image of {height}x{width} pixels has no area")
    return resized_crop(height, width, long_edge, max(height, width))


def resized_crop(height: int, width: int, long_edge: int, longest: int) -> tuple[int, int]:
    """Returns the `resized_size` of a height x width crop of an image whose long side `longest` becomes `long_edge`."""

    def cut(side: int) -> int:
        return max(side * long_edge // longest // MULTIPLE, 1) * MULTIPLE

    return cut(height), cut(width)


def level_cells(side: int, stride: int) -> int:
    """Returns the cells along a side at `stride`: ceil(side / stride). Ceilings compose over strides."""
    return -(-side // stride)


def level_sizes(height: int, width: int, strides: Sequence[int]) -> list[tuple[int, int]]:
    """Returns (h, w) in cells of every level of a resized image of height x width pixels."""
    return [(level_cells(height, s), level_cells(width, s)) for s in strides]


def window_grids(height: int, width: int, strides: Sequence[int]) -> list[tuple[int, int]]:
    """Returns (rows, columns) of the window grid of every level: h + 1 by w + 1 (docs/network.md §1)."""
    return [(h + 1, w + 1) for h, w in level_sizes(height, width, strides)]


def all_windows(height: int, width: int, strides: Sequence[int]) -> Int[np.ndarray, "N 3"]:
    """Returns every window (level, i, j) of a resized image, level by level, row by row; int32."""
    grids = window_grids(height, width, strides)
    parts = []
    for level, (rows, columns) in enumerate(grids):
        i, j = np.indices((rows, columns), dtype=np.int32).reshape(2, -1)
        parts.append(np.stack([np.full_like(i, level), i, j], axis=1))
    return np.concatenate(parts)


def window_boxes(windows: Int[np.ndarray, "K 3"], strides: Sequence[int]) -> Int[np.ndarray, "K 4"]:
    """Returns (x1, y1, x2, y2) of windows in resized pixels, which may extend beyond the image; int64."""
    stride = np.asarray(strides, np.int64)[windows[:, 0]]
    i, j = windows[:, 1].astype(np.int64), windows[:, 2].astype(np.int64)
    reach = HALF_WINDOW * stride
    return np.stack([j * stride - reach, i * stride - reach, j * stride + reach, i * stride + reach], axis=1)


def original_window_boxes(
    windows: Int[np.ndarray, "K 3"],
    strides: Sequence[int],
    resized: tuple[int, int],
    original: tuple[int, int],
) -> Int[np.ndarray, "K 4"]:
    """Returns (x1, y1, x2, y2) of windows in whole original pixels, not clipped (docs/network.md §3); int64.

    Halves are rounded to even.

    Args:
      windows: (level, i, j) triples.
      strides: strides of the levels.
      resized, original: (height, width) of the image as the network saw it, and of its file.
    """
    # A single, correctly rounded division keeps edges at half a pixel exact, so that they round to even.
    boxes = window_boxes(windows, strides) * np.tile(original[::-1], 2) / np.tile(resized[::-1], 2)
    return np.rint(boxes).astype(np.int64)


def smallest_bucket(height: int, width: int, buckets: Sequence[tuple[int, int]]) -> int | None:
    """Returns the index of the smallest bucket that fits height x width pixels; None if none does."""
    fitting = [(b[0] * b[1], n) for n, b in enumerate(buckets) if b[0] >= height and b[1] >= width]
    return min(fitting)[1] if fitting else None


def choose_bucket(height: int, width: int, long_edge: int, buckets: Sequence[tuple[int, int]]) -> int:
    """Returns the index of the smallest bucket (padded height, width) that fits an image resized to `long_edge`.

    Raises:
      ValueError: no bucket is large enough.
    """
    need = resized_size(height, width, long_edge)
    number = smallest_bucket(*need, buckets)
    if number is None:
        raise InvalidInput(
            f"an image of {height}x{width} pixels is {need[0]}x{need[1]} at long edge {long_edge}, larger than every "
            f"bucket of {[tuple(b) for b in buckets]}: add one of {long_edge}x{long_edge} to the config"
        )
    return number


@cache
def upscale_matrix() -> Float32[np.ndarray, "160 40"]:
    """Returns the fixed bilinear x4 upsampling matrix of mask logits along one axis (docs/network.md §1); read-only.

    A transposed convolution with kernel (1, 3, 5, 7, 7, 5, 3, 1) / 8 and stride 4, cropped by two cells at each border:
    row y holds the weights of the coarse cells in fine cell y. In the outer two rows they sum to less than one.
    """
    kernel = 1 - np.abs(np.arange(2 * UPSCALE) - (UPSCALE - 0.5)) / UPSCALE
    matrix = np.zeros((FINE_MASK + UPSCALE, MASK), np.float32)
    for cell in range(MASK):
        matrix[cell * UPSCALE : (cell + 2) * UPSCALE, cell] = kernel
    return matrix[UPSCALE // 2 : -UPSCALE // 2].copy()
