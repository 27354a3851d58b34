"""Pastes mask logits of windows into the original image, as runs of pixels (docs/network.md §1 and §3).

A mask consists of 160×160 probabilities, resized bilinearly to the window box and thresholded. It is never rasterized:
along a column of the image, the resized probability is piecewise linear with knots at the fine cells, so runs start and
end where it crosses the threshold. These few crossings are much cheaper to compute than all pixels.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int64

from fastmask_jax.errors import InvalidInput
from fastmask_jax.geometry import FINE_MASK, MASK, UPSCALE, original_window_boxes, upscale_matrix

COLUMNS = 1 << 18  # columns of pixels of which masks are pasted at once, about


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

    def part(self, begin: int, end: int) -> "Runs":
        """Returns masks `begin` to `end`, or to the last."""
        splits = self.splits[begin : end + 1]
        return Runs(self.edges[splits[0] : splits[-1]], splits - splits[0], self.size)


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
    hit = (logits >= _least_logits(threshold)).any(1)  # [K, columns]
    some = hit.any(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    some &= (boxes[:, :2] < (width, height)).all(1) & (boxes[:, 2:] > 0).all(1)
    chosen = np.flatnonzero(some)
    x1, y1, x2, y2 = boxes[chosen].T
    first, counts = _columns(hit[chosen], x1, x2, width)
    lengths = np.zeros(len(logits) + 1, np.int64)
    edges = [np.zeros(0, np.int64)]
    # Few columns at once: those of a thousand masks in a very large image would need gigabytes.
    for block in np.split(np.arange(len(chosen)), np.flatnonzero(np.diff(np.cumsum(counts) // COLUMNS)) + 1):
        boxes_of = np.stack([x1, y1, x2, y2])[:, block]
        new, owner = _edges(logits[chosen[block]], boxes_of, first[block], counts[block], height, threshold)
        edges.append(new)
        lengths[chosen[block] + 1] = np.bincount(owner, minlength=len(block))
    return Runs(np.concatenate(edges), np.cumsum(lengths), (height, width))


def _edges(
    logits: Float32[np.ndarray, "k 40 40"],
    boxes: Int64[np.ndarray, "4 k"],
    first: Int64[np.ndarray, "k"],
    counts: Int64[np.ndarray, "k"],
    height: int,
    threshold: float,
) -> tuple[Int64[np.ndarray, "N"], Int64[np.ndarray, "N"]]:
    """Pastes some masks.

    Args:
      boxes: x1, y1, x2, y2 of the windows in the image.
      first, counts: as returned by `_columns`.
      height: height of the image.

    Returns:
      The edges of `Runs`, and the mask of each.
    """
    from fastmask_jax.masks.crossings import find_crossings  # imports JAX, which readers of masks do not need

    x1, y1, x2, y2 = boxes
    owner = np.repeat(np.arange(len(counts)), counts)
    column = np.arange(len(owner)) + np.repeat(first - np.cumsum(counts) + counts, counts)  # of the window
    x = np.clip((column + 0.5) * (FINE_MASK / (x2 - x1))[owner] - 0.5, 0, FINE_MASK - 1).astype(np.float32)
    found = find_crossings(logits, counts, x, threshold)

    y = found.row - found.rest.astype(np.float64)
    y[found.row == 0] = -1.0  # beyond the cells: all pixels of that side
    y[found.row == FINE_MASK] = FINE_MASK + 1.0
    mask = owner[found.column]
    y = (y + 0.5) * ((y2 - y1) / FINE_MASK)[mask] - 0.5
    pixel = np.empty(len(y), np.int64)
    pixel[0::2] = np.ceil(y[0::2])
    pixel[1::2] = np.floor(y[1::2]) + 1
    pixel = np.clip(pixel, np.maximum(-y1, 0)[mask], np.minimum(y2, height)[mask] - y1[mask])
    edges = pixel + (column[found.column] + x1[mask]) * height + y1[mask]
    # Where a fine cell equals the threshold up to rounding, a run may begin one pixel before the end of the last one.
    start = mask * (edges.max(initial=0) + 1)  # of a range of its own for each mask
    return np.maximum.accumulate(edges + start) - start, mask


def _columns(
    hit: Bool[np.ndarray, "K 40"], x1: Int64[np.ndarray, "K"], x2: Int64[np.ndarray, "K"], width: int
) -> tuple[Int64[np.ndarray, "K"], Int64[np.ndarray, "K"]]:
    """Returns the first column of pixels of each window that can belong to its mask, and the number of such columns.

    Args:
      hit: columns of cells that can raise a fine cell to the threshold.
      x1, x2: edges of the windows in pixels of the image.
      width: width of the image.
    """
    scale = FINE_MASK / (x2 - x1)
    reach = UPSCALE // 2 + 1  # the kernel extends two fine cells beyond its own four; one more is below the threshold
    low = hit.argmax(1) * UPSCALE - reach
    high = (MASK - hit[:, ::-1].argmax(1)) * UPSCALE + reach
    # The fine cells at the ends of the range and beyond are below the threshold.
    least = np.where(low > 0, np.floor((low + 0.5) / scale - 0.5) + 1, 0)
    most = np.where(high < FINE_MASK, np.ceil((high - 0.5) / scale - 0.5), x2 - x1)
    begin = np.maximum(np.maximum(-x1, 0), least).astype(np.int64)
    end = np.minimum(np.minimum(x2, width) - x1, most).astype(np.int64)
    return begin, np.maximum(end - begin, 0)
