"""Bounds of the IoU of masks that are much cheaper than the IoU itself."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float64, Int, Int32, Int64, Real, UInt8

from fastmask_jax.masks.paste import Runs
from fastmask_jax.masks.rle import decode_counts, decoded_runs, text_of

CELLS = 700  # cells of an image, about: those of 640x480 pixels have 21x21
_MASKS = 64  # masks whose pixels are counted at once, so that the counts stay in the cache
_PAIRS = 512  # pairs whose cells are compared at once, so that they stay in the cache


def greatest_iou(
    edges: Real[np.ndarray, "4 a"],
    areas: Real[np.ndarray, "a"],
    other_edges: Real[np.ndarray, "4 b"],
    other_areas: Real[np.ndarray, "b"],
) -> Float64[np.ndarray, "a b"]:
    """Returns the greatest IoU that each pair of masks can have by boxes and areas.

    Args:
      edges, other_edges: x1, y1, x2, y2 of boxes around the masks.
      areas, other_areas: areas of the masks in pixels.
    """
    x1, y1, x2, y2 = other_edges
    left, top, right, bottom = edges[:, :, None]
    # In place: new arrays of many pairs cost more than the arithmetic.
    shared, part = np.minimum(x2, right, dtype=np.float64), np.maximum(x1, left, dtype=np.float64)
    np.maximum(np.subtract(shared, part, out=shared), 0, out=shared)
    height = np.minimum(y2, bottom, dtype=np.float64)
    np.maximum(np.subtract(height, np.maximum(y1, top, out=part), out=height), 0, out=height)
    shared *= height
    np.minimum(shared, np.minimum(areas[:, None], other_areas, out=part), out=shared)
    union = np.subtract(np.add(areas[:, None], other_areas, out=part), shared, out=part)
    return np.divide(shared, np.maximum(union, 1.0, out=union), out=shared)


def iou(
    shared: Real[np.ndarray, "..."], area: Real[np.ndarray, "..."], other_area: Real[np.ndarray, "..."]
) -> Float64[np.ndarray, "..."]:
    """Returns the IoU of masks with these areas and intersections; 0 for two empty ones.

    Rounded like the division in pycocotools, so a bound of the intersection gives a bound of the rounded IoU.
    """
    return shared / np.maximum(area + other_area - shared, 1.0)


class Coarse(NamedTuple):
    """K masks of an image by the pixels that they cover, and do not cover, in square cells.

    Attributes:
      areas: int64[K], pixels of the masks.
      covered, free: uint8[K, C], pixels of each cell in units, rounded up.
      unit: pixels.
    """

    areas: Int64[np.ndarray, "K"]
    covered: UInt8[np.ndarray, "K C"]
    free: UInt8[np.ndarray, "K C"]
    unit: int


def coarse(rles: Sequence[Mapping[str, Any]]) -> tuple[Coarse, Runs]:
    """Decodes masks of one image, given as valid compressed RLE, and counts their pixels in the cells of a grid."""
    size = tuple(rles[0]["size"])
    side = math.ceil(math.sqrt(math.prod(size) / CELLS))
    unit = math.ceil(side**2 / 255)
    high, wide = (np.minimum(side, length - np.arange(0, length, side)) for length in size)
    pixels = (wide[:, None] * high).reshape(-1).astype(np.int32)
    runs = decoded_runs(decode_counts([text_of(rle) for rle in rles]), size)
    areas, covered, free = np.zeros(len(rles), np.int64), *np.zeros((2, len(rles), len(pixels)), np.uint8)
    for at in range(0, len(rles), _MASKS):
        some = slice(at, at + _MASKS)
        counts = cell_counts(runs.part(at, at + _MASKS), side)
        areas[some] = counts.sum(1, dtype=np.int64)
        covered[some] = (counts + (unit - 1)) // unit
        free[some] = (pixels - counts + (unit - 1)) // unit
    return Coarse(areas, covered, free, unit), runs


def cell_counts(runs: Runs, side: int) -> Int32[np.ndarray, "K C"]:
    """Counts the pixels of masks in square cells, column of cells after column; the last ones may be cut off."""
    height, width = runs.size
    masks, columns, rows = len(runs.splits) - 1, -(-width // side), -(-height // side)
    edges = runs.edges.astype(np.int32 if height * width < 2**31 else np.int64)  # half the bytes are faster
    begin, end = edges[0::2], edges[1::2]
    owner = np.repeat(np.arange(masks, dtype=edges.dtype), np.diff(runs.splits) // 2)
    column, last = begin // height, (end - 1) // height
    top, bottom = begin - column * height, end - last * height
    wraps = np.flatnonzero(last > column)
    if len(wraps):  # cut into a run for each column
        more = (last - column)[wraps]
        place = np.repeat(wraps, more)
        after = np.arange(len(place)) - np.repeat(np.cumsum(more) - more, more) + 1
        whole = column[place] + after
        ends = np.where(whole == last[place], bottom[place], height)
        bottom[wraps] = height
        column, owner = np.concatenate([column, whole]), np.concatenate([owner, owner[place]])
        top, bottom = np.concatenate([top, np.zeros_like(ends)]), np.concatenate([bottom, ends])
    # An edge at row y fills `side` rows of each cell above its own, and y % side rows of its own. These numbers of rows
    # are the sums of few steps, and a run is the difference of its two edges.
    first = (owner * columns + column // side) * (rows + 2)
    row_top, row_bottom = top // side, bottom // side
    in_top, in_bottom = top - row_top * side, bottom - row_bottom * side
    places, steps = np.empty((4, len(first)), np.int64), np.empty((4, len(first)))
    np.add(first, row_top, out=places[0])
    np.add(first, row_bottom, out=places[2])
    np.add(places[::2], 1, out=places[1::2])
    steps[:] = side - in_top, in_top, in_bottom - side, -in_bottom
    filled = np.bincount(places.reshape(-1), steps.reshape(-1), masks * columns * (rows + 2)).astype(np.int32)
    return np.cumsum(filled.reshape(-1, rows + 2)[:, :rows], axis=1, dtype=np.int32).reshape(masks, columns * rows)


def iou_ranges(
    masks: Coarse, first: Int[np.ndarray, "p"], second: Int[np.ndarray, "p"], threshold: float
) -> tuple[Float64[np.ndarray, "p"], Float64[np.ndarray, "p"]]:
    """Returns the least and the greatest IoU that pairs of masks can have by their cells.

    Args:
      first, second: numbers of the masks of each pair.
      threshold: the least IoU is 0 for pairs whose greatest is not above this.
    """
    greatest = iou(most_shared(masks, first, second), masks.areas[first], masks.areas[second])
    least = np.zeros(len(first))
    some = np.flatnonzero(greatest > threshold)
    first, second = first[some], second[some]
    area = masks.areas[first]
    outside = _smaller(masks.covered, masks.free, first, second) * masks.unit
    least[some] = iou(np.maximum(area - outside, 0), area, masks.areas[second])
    return least, greatest


def most_shared(masks: Coarse, first: Int[np.ndarray, "p"], second: Int[np.ndarray, "p"]) -> Int64[np.ndarray, "p"]:
    """Returns how many pixels pairs of masks, given by their numbers, share at most."""
    shared = _smaller(masks.covered, masks.covered, first, second) * masks.unit
    return np.minimum(shared, np.minimum(masks.areas[first], masks.areas[second]))


def _smaller(
    cells: UInt8[np.ndarray, "K C"],
    others: UInt8[np.ndarray, "K C"],
    first: Int[np.ndarray, "p"],
    second: Int[np.ndarray, "p"],
) -> Int64[np.ndarray, "p"]:
    """Returns the smaller number of each pair, summed over the cells."""
    most = np.zeros(len(first), np.int64)
    for at in range(0, len(first), _PAIRS):
        pairs = slice(at, at + _PAIRS)
        smaller = np.minimum(cells[first[pairs]], others[second[pairs]])
        most[pairs] = cv2.reduce(smaller, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0]
    return most
