"""Draws the targets of positive windows: the object's mask and its box in the window (docs/network.md §2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, Int64, Num, UInt8

from fastmask_jax.geometry import FINE_MASK, HALF_WINDOW, WINDOW
from fastmask_jax.masks.rle import decode_counts, text_of
from fastmask_jax.masks.rle_regions import tight_bitmap

CELLS_PER_STRIDE = FINE_MASK // WINDOW  # mask cells in a window's step: windows of a level share one lattice of cells


@dataclass(frozen=True, eq=False)
class InstanceMask:
    """An object's mask in pixels of a sample's image.

    Attributes:
      size: (height, width) of the image before cropping.
      counts: lengths of gap, run, gap, run ...; empty if `whole` has the pixels.
      mirrored: whether the image is flipped left to right.
      part: (x, y, width, height) of the crop, after mirroring.
      whole: empty, or (x, y, pixels) of the mask before mirroring and cropping. Masks made from this one share the
        list, so that each mask is drawn once.
    """

    size: tuple[int, int]
    counts: Int64[np.ndarray, "M"]
    mirrored: bool = False
    part: tuple[int, int, int, int] | None = None
    whole: list[tuple[int, int, np.ndarray]] = field(default_factory=list, repr=False)

    @classmethod
    def of_rles(cls, rles: Sequence[Mapping[str, Any]]) -> "tuple[InstanceMask, ...]":
        """Returns the masks of an image from valid compressed RLE."""
        counts, splits, _ = decode_counts([text_of(rle) for rle in rles])
        return tuple(
            cls(tuple(rle["size"]), counts[begin:end]) for rle, (begin, end) in zip(rles, pairwise(splits), strict=True)
        )

    @classmethod
    def of_pixels(cls, x: int, y: int, pixels: UInt8[np.ndarray, "_h _w"], size: tuple[int, int]) -> "InstanceMask":
        """Returns the mask of pixels, 0 or 1, at (x, y) in an image of (height, width)."""
        return cls(size, np.zeros(0, np.int64), whole=[_within(x, y, pixels, 0, 0, *size[::-1])])

    def mirror(self) -> "InstanceMask":
        """Returns the mask in the image flipped left to right."""
        part = self.part and (self.size[1] - self.part[0] - self.part[2], *self.part[1:])
        return replace(self, mirrored=not self.mirrored, part=part)

    def cut(self, x: int, y: int, width: int, height: int) -> "InstanceMask":
        """Returns the mask in a crop of the image."""
        left, top = self.part[:2] if self.part else (0, 0)
        return replace(self, part=(left + x, top + y, width, height))

    def crop(self) -> tuple[int, int, UInt8[np.ndarray, "h w"]]:
        """Returns (x, y, pixels): the corner of the bounding rectangle of the mask, and its pixels, 0 or 1."""
        if not self.whole:
            self.whole.append(tight_bitmap(self.counts, self.size[0]))
        x, y, pixels = self.whole[0]
        if self.mirrored:
            x, pixels = self.size[1] - x - pixels.shape[1], pixels[:, ::-1]
        return _within(x, y, pixels, *self.part) if self.part else (x, y, pixels)


def _within(
    x: int, y: int, pixels: UInt8[np.ndarray, "_h _w"], left: int, top: int, width: int, height: int
) -> tuple[int, int, UInt8[np.ndarray, "h w"]]:
    """Crops a mask; returns its bounding rectangle, with the corner relative to the crop."""
    x, y = x - left, y - top
    pixels = pixels[max(-y, 0) : max(height - y, 0), max(-x, 0) : max(width - x, 0)]
    x, y = max(x, 0), max(y, 0)
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return 0, 0, np.zeros((0, 0), np.uint8)
    return x + int(columns[0]), y + int(rows[0]), pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def draw_masks(
    targets: UInt8[np.ndarray, "P 160 160"],
    windows: Int[np.ndarray, "P 3"],
    objects: Int[np.ndarray, "P"],
    masks: Sequence[InstanceMask],
    original: tuple[int, int],
    resized: tuple[int, int],
    strides: Sequence[int],
) -> None:
    """Writes the object of each window as 160×160 cells of 0 and 1 into `targets`, which is initially 0.

    A cell is 1 if the mean of the mask over a square around the center of the cell is at least ½. The square is the
    cell, or one original pixel if that is larger. This equals area averaging where the window downsamples the mask, and
    bilinear interpolation where it upsamples it. Outside the image the mask is 0.

    Args:
      targets: output array, so that the targets of a batch are not copied.
      windows, objects: (level, i, j) triples and the numbers of their objects; −1: none.
      masks: of all objects, in original pixels.
      original, resized: (height, width) of the image file, and of the image that the network sees.
      strides: strides of the levels in resized pixels.
    """
    scale_y, scale_x = original[0] / resized[0], original[1] / resized[1]
    levels = windows[:, 0]
    for n in np.unique(objects[objects >= 0]):
        x, y, pixels = masks[n].crop()
        summed = cv2.integral(pixels)  # [h + 1, w + 1]: linear between corners of pixels, so exact at any edge
        for level in np.unique(levels[objects == n]):
            cell = strides[level] / CELLS_PER_STRIDE
            top, bottom = _cell_range(y, pixels.shape[0], cell * scale_y)
            left, right = _cell_range(x, pixels.shape[1], cell * scale_x)
            rows = _strip_means(summed, np.arange(top, bottom), cell * scale_y, y)
            cells = _strip_means(rows.T, np.arange(left, right), cell * scale_x, x).T >= 0.5
            for p in np.flatnonzero((objects == n) & (levels == level)):
                i, j = (windows[p, 1:] - HALF_WINDOW) * CELLS_PER_STRIDE
                _paste(cells, targets[p], int(top - i), int(left - j))


def _cell_range(start: int, length: int, cell: float) -> tuple[int, int]:
    """Returns the range of cells, `cell` pixels wide, whose center may lie in the `length` pixels from `start`."""
    return int(np.floor(start / cell)), int(np.ceil((start + length) / cell))


def _strip_means(
    summed: Num[np.ndarray, "edges m"], cells: Int[np.ndarray, "r"], cell: float, start: int
) -> Float[np.ndarray, "r m"]:
    """Computes means over strips of max(cell, 1) pixels around the centers of cells, from cumulative sums.

    The first of the h pixels is pixel `start`; all others are 0.
    """
    pixels, width, count = len(summed) - 1, max(cell, 1.0), len(cells)
    if cell >= 1:  # each strip begins where the one before ends
        edges = np.append(cells, cells[-1] + 1) * cell - start
    else:
        first = (cells + 0.5) * cell - width / 2 - start
        edges = np.concatenate([first, first + width])
    edges = np.clip(edges, 0, pixels)
    whole = np.minimum(edges.astype(np.int64), pixels - 1)
    part = (edges - whole)[:, None]
    before = summed[whole] * (1 - part)
    before += summed[whole + 1] * part
    means = before[-count:] - before[:count]
    means /= width
    return means


def _paste(cells: Bool[np.ndarray, "r c"], target: UInt8[np.ndarray, "160 160"], top: int, left: int) -> None:
    """Writes cells into the target of a window, with their corner at (top, left), cropped at its border."""
    rows = slice(max(top, 0), min(top + cells.shape[0], FINE_MASK))
    columns = slice(max(left, 0), min(left + cells.shape[1], FINE_MASK))
    if rows.start < rows.stop and columns.start < columns.stop:
        target[rows, columns] = cells[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


def draw_attention(
    targets: UInt8[np.ndarray, "P 10 10"],
    windows: Int[np.ndarray, "P 3"],
    objects: Int[np.ndarray, "P"],
    boxes: Int[np.ndarray, "n 4"],
    original: tuple[int, int],
    resized: tuple[int, int],
    strides: Sequence[int],
) -> None:
    """Writes the box of each window's object as 10×10 cells of 0 and 1 into `targets`.

    The edges of the box are rounded to cell borders (half to even, which is symmetric under flips). It has at least one
    cell on each axis, the one of its center, and is cropped to the window.

    Args:
      boxes: whole original pixels, (x, y, width, height); the others as in `draw_masks`.
    """
    real = np.flatnonzero(objects >= 0)
    windows, boxes = windows[real], boxes[objects[real]]
    stride = np.asarray(strides)[windows[:, 0], None]
    per_pixel = np.array(resized) / (np.array(original) * stride)  # cells in an original pixel, (y, x)
    corner = boxes[:, 1::-1] * per_pixel - (windows[:, 1:] - HALF_WINDOW)
    side = boxes[:, :1:-1] * per_pixel
    first, last = np.rint(corner), np.rint(corner + side)
    first = np.clip(np.where(first < last, first, np.floor(corner + side / 2)), 0, WINDOW - 1)
    last = np.clip(last, first + 1, WINDOW)
    cell = np.arange(WINDOW)
    within = (cell >= first[:, :, None]) & (cell < last[:, :, None])  # [P, 2, 10]
    targets[real] = within[:, 0, :, None] & within[:, 1, None, :]
