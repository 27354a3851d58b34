"""Pastes mask logits of windows into the original image, as runs of pixels (docs/network.md §1 and §3).

A mask consists of 160×160 probabilities, resized bilinearly to the window box and thresholded. It is never rasterized:
along a column of the image, the resized probability is piecewise linear with knots at the fine cells, so runs start and
end where it crosses the threshold. These few crossings are much cheaper to compute than all pixels.
"""

from collections.abc import Sequence
from functools import cache
from math import ceil, floor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int64

from fastmask_jax.errors import InvalidInput
from fastmask_jax.geometry import FINE_MASK, MASK, UPSCALE, original_window_boxes, upscale_matrix


class Runs(NamedTuple):
    """Masks of one image as runs of pixels in column order (pixel (y, x) has index x * H + y).

    Attributes:
      edges: int64[N], start and end of the runs of all masks, mask after mask: start, end, start, ... They are
        nondecreasing within a mask. Equal edges cancel each other: an empty run, or two adjacent runs.
      splits: int64[K + 1], mask k owns edges[splits[k]:splits[k + 1]].
      size: (H, W) of the image.
    """

    edges: Int64[np.ndarray, "N"]
    splits: Int64[np.ndarray, "K1"]
    size: tuple[int, int]


def upsample(logits: Float32[np.ndarray, "K 40 40"]) -> Float32[np.ndarray, "K 160 160"]:
    """Upsamples mask logits by the fixed bilinear transposed convolution, 8×8 stride 4, cropped by two cells."""
    matrix = upscale_matrix()
    return matrix @ (logits @ matrix.T)


@cache
def _least_logits(threshold: float) -> Float32[np.ndarray, "40 40"]:
    """Returns logits below which no cell can raise a fine cell to `threshold`.

    At the border the weights of the transposed convolution sum to as little as 5/8 along an axis, which pulls negative
    logits towards 0, so cells slightly below the logit of the threshold count there.
    """
    logit = np.log(threshold / (1 - threshold))
    weight = np.ones(MASK)
    weight[[0, -1]] = (UPSCALE + 1) / (2 * UPSCALE) if logit < 0 else 1
    return (logit / (weight[:, None] * weight) - 1e-4).astype(np.float32)


def _spans(hit: np.ndarray, axis: int) -> tuple[Int64[np.ndarray, "K"], Int64[np.ndarray, "K"]]:
    """Returns the range of fine cells along the other axis that can reach the threshold, with a margin of one."""
    line = hit.any(axis)
    first, last = line.argmax(1), MASK - 1 - line[:, ::-1].argmax(1)
    reach = UPSCALE // 2 + 1  # the kernel extends two fine cells beyond its own four; one more is below the threshold
    return np.maximum(first * UPSCALE - reach, 0), np.minimum((last + 1) * UPSCALE + reach, FINE_MASK)


def _axis(low: int, high: int, side: int, first: int, last: int) -> tuple[int, int, int, int, float]:
    """Returns the range of pixels and fine cells along an axis of a window that can belong to the mask.

    Args:
      low, high: edges of the window in pixels of the original image.
      side: side of the image.
      first, last: range of the fine cells that can reach the threshold.

    Returns:
      (p, q, f, end, scale): pixels p ... q − 1 of the window, fine cells f ... end − 1, fine cells per pixel.
    """
    scale = FINE_MASK / (high - low)
    p, q = max(low, 0) - low, min(high, side) - low
    if first > 0:  # the cells at the ends of the range and beyond are below the threshold
        p = max(p, floor((first + 0.5) / scale - 0.5) + 1)
    if last < FINE_MASK:
        q = min(q, ceil((last - 0.5) / scale - 0.5))
    end = min(last, int((q - 0.5) * scale - 0.5) + 2)
    f = min(max(first, int((p + 0.5) * scale - 0.5)), end - 2)
    return p, q, f, end, scale


def _crossings(
    logits: Float32[np.ndarray, "40 40"],
    columns: tuple[int, int, int, int, float],
    rows: tuple[int, int, int, int, float],
    threshold: np.float32,
) -> tuple[Int64[np.ndarray, "n"], Float32[np.ndarray, "n"], Float32[np.ndarray, "n"]]:
    """Finds where the columns of one mask cross the threshold, column after column.

    Args:
      columns, rows: as returned by `_axis`.

    Returns:
      (steps, before, after): step c * (rows + 2) + r leads, in column c, from the fine row before r of the range to r,
      from probability `before` to `after`; rows outside the range have probability 0.
    """
    p, q, f, end, scale = columns
    matrix = upscale_matrix()
    cells = matrix[f:end] @ (logits.T @ matrix[rows[2] : rows[3]].T)  # [fine columns, fine rows]
    cells *= 0.5  # computes the sigmoid by tanh, which cannot overflow
    np.tanh(cells, out=cells)
    cells *= 0.5
    fine = np.zeros((cells.shape[0], cells.shape[1] + 2), np.float32)
    np.add(cells, 0.5, out=fine[:, 1:-1])

    # Every column of pixels lies between two columns of fine cells.
    x = np.clip((np.arange(p, q) + 0.5) * scale - 0.5, 0, FINE_MASK - 1).astype(np.float32) - np.float32(f)
    cell = np.clip(x.astype(np.intp), 0, len(fine) - 2)
    lines = np.take(fine[1:] - fine[:-1], cell, axis=0)  # [q − p, fine rows + 2]
    lines *= (x - cell).astype(np.float32)[:, None]
    lines += np.take(fine, cell, axis=0)
    values = lines.ravel()
    inside = values >= threshold
    steps = np.flatnonzero(inside[1:] != inside[:-1])
    return steps, values[steps], values[steps + 1]


def paste(
    windows: Int[np.ndarray, "K 3"],
    mask_logits: Float[np.ndarray, "K 40 40"],
    *,
    strides: Sequence[int],
    resized: tuple[int, int],
    original: tuple[int, int],
    threshold: float,
) -> Runs:
    """Pastes masks of windows into the original image (docs/network.md §3). Thread-safe.

    Equal to cv2.resize (INTER_LINEAR) of the 160×160 probabilities to the window box in the original image, cropped at
    the border, >= threshold, except for pixels within rounding (about 1e-6) of the threshold.

    Args:
      windows: (level, i, j) triples.
      mask_logits: their logits.
      strides: strides of the levels, in resized pixels.
      resized, original: (height, width) of the image as the network saw it, and of its file.
      threshold: probability between 0 and 1.

    Returns:
      One mask per window, in order; an empty mask has no runs.
    """
    if not 0 < threshold < 1:
        raise InvalidInput(f"threshold={threshold}: expected a probability between 0 and 1, such as 0.2")
    height, width = original
    logits = np.asarray(mask_logits, np.float32)
    boxes = original_window_boxes(windows, strides, resized, original)
    hit = logits >= _least_logits(threshold)
    (left, right), (upper, lower) = _spans(hit, 1), _spans(hit, 2)
    empty = ~hit.any((1, 2)) | (boxes[:, :2] >= (width, height)).any(1) | (boxes[:, 2:] <= 0).any(1)
    empty |= (boxes[:, 2:] <= boxes[:, :2]).any(1)
    spans = np.stack([left, right, upper, lower], 1).tolist()
    limit = np.float32(threshold)
    parts, shapes, lengths = [], [], np.zeros(len(logits) + 1, np.int64)
    for k, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        if empty[k]:
            continue
        columns = _axis(x1, x2, width, *spans[k][:2])
        rows = _axis(y1, y2, height, *spans[k][2:])
        if columns[0] < columns[1] and rows[0] < rows[1]:
            parts.append(_crossings(logits[k], columns, rows, limit))
            shapes.append((x1 + columns[0], y1, *rows))
            lengths[k + 1] = len(parts[-1][0])
    if not parts:
        return Runs(np.zeros(0, np.int64), np.cumsum(lengths), (height, width))
    steps, before, after = (np.concatenate(part) for part in zip(*parts, strict=True))
    which = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    edges = _edges(steps, before, after, np.array(shapes, np.float64)[which], height, limit)
    return Runs(edges, np.cumsum(lengths), (height, width))


def _edges(
    steps: Int64[np.ndarray, "N"],
    before: Float32[np.ndarray, "N"],
    after: Float32[np.ndarray, "N"],
    shapes: Float64[np.ndarray, "N 7"],
    height: int,
    threshold: np.float32,
) -> Int64[np.ndarray, "N"]:
    """Computes the pixels at which runs start and end (see `Runs`), from the crossings of all masks.

    Args:
      steps, before, after: as returned by `_crossings`, mask after mask.
      shapes: for the mask of each crossing, its first column in the image, y1 of the window, and rows of `_axis`.
    """
    left, y1, top, bottom, first, end = shapes[:, :6].T.astype(np.int64)
    column, row = np.divmod(steps, end - first + 2)
    y = first + row - (after - threshold) / (after - before).astype(np.float64)
    y[row == 0] = -1.0  # beyond the cells: all pixels of that side
    y[row == end - first] = FINE_MASK + 1.0
    y = (y + 0.5) / shapes[:, 6] - 0.5
    pixel = np.empty(len(y), np.int64)
    pixel[0::2] = np.ceil(y[0::2])
    pixel[1::2] = np.floor(y[1::2]) + 1
    return np.clip(pixel, top, bottom) + (column + left) * height + y1
