"""Crops, moves and samples RLE masks without a bitmap of the whole image, so that memory does not grow with its size.

Boxes are edges (x1, y1, x2, y2) in whole pixels of the image, within it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int64, UInt8
from pycocotools import mask as coco_mask

from fastmask_jax.masks.paste import Runs
from fastmask_jax.masks.rle import decode_counts, decoded_runs, encode, text_of

Rle = Mapping[str, Any]
Box = tuple[int, int, int, int]


class _Strokes(NamedTuple):
    """Runs of masks, each within one column of pixels; ordered by mask, column and row."""

    column: Int64[np.ndarray, "N"]
    top: Int64[np.ndarray, "N"]
    bottom: Int64[np.ndarray, "N"]
    owner: Int64[np.ndarray, "N"]


def runs_of(rles: Sequence[Rle], size: tuple[int, int]) -> Runs:
    """Decodes compressed RLE of an image of (H, W) pixels to runs."""
    return decoded_runs(decode_counts([text_of(rle) for rle in rles]), size)


def crop(rles: Sequence[Rle], box: Box) -> list[dict[str, Any]]:
    """Crops masks of one image to a box; the results have the size of the box."""
    x1, y1, x2, y2 = box
    if not rles:
        return []
    strokes = _strokes(runs_of(rles, tuple(rles[0]["size"])))
    top, bottom = np.maximum(strokes.top, y1), np.minimum(strokes.bottom, y2)
    inside = (strokes.column >= x1) & (strokes.column < x2) & (top < bottom)
    cut = _Strokes(strokes.column[inside] - x1, top[inside] - y1, bottom[inside] - y1, strokes.owner[inside])
    return encode(_runs(cut, len(rles), (y2 - y1, x2 - x1)))


def place(rles: Sequence[Rle], at: tuple[int, int], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Moves masks of a part of an image into the image.

    Args:
      rles: masks of the part.
      at: (x, y) of the part's upper left pixel in the image.
      size: (H, W) of the image, which holds the whole part.
    """
    return encode(placed(runs_of(rles, tuple(rles[0]["size"])), at, size)) if rles else []


def placed(runs: Runs, at: tuple[int, int], size: tuple[int, int]) -> Runs:
    """Moves runs of a part of an image into the image; see `place`. Each run of the result lies in one column."""
    strokes = _strokes(runs)
    moved = strokes._replace(column=strokes.column + at[0], top=strokes.top + at[1], bottom=strokes.bottom + at[1])
    return _runs(moved, len(runs.splits) - 1, size)


def bitmap(rle: Rle, box: Box) -> Bool[np.ndarray, "h w"]:
    """Decodes the part of a mask in a box."""
    if (box[3] - box[1], box[2] - box[0]) != tuple(rle["size"]):
        (rle,) = crop([rle], box)
    return coco_mask.decode(rle).astype(bool)


def tight_bitmap(counts: Int64[np.ndarray, "M"], height: int) -> tuple[int, int, UInt8[np.ndarray, "h w"]]:
    """Draws a mask, given as lengths of gap, run, gap, run ... in an image of a height.

    Returns:
      (x, y, pixels): the corner of the mask's bounding rectangle, and its pixels, 0 or 1.
    """
    ends = np.cumsum(counts)
    runs = [(begin, end) for begin, end in zip(ends[0::2].tolist(), ends[1::2].tolist(), strict=False) if begin < end]
    if not runs:
        return 0, 0, np.zeros((0, 0), np.uint8)
    first, last = runs[0][0] // height, (runs[-1][1] - 1) // height
    filled = np.zeros((last - first + 1) * height, np.uint8)
    before = first * height
    for begin, end in runs:
        filled[begin - before : end - before] = 1
    columns = filled.reshape(-1, height)
    rows = np.flatnonzero(columns.any(axis=0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return first, top, np.ascontiguousarray(columns[:, top:bottom].T)


def sampled(rle: Rle, rows: Int[np.ndarray, "h"], columns: Int[np.ndarray, "w"]) -> Bool[np.ndarray, "h w"]:
    """Samples a mask at all combinations of some rows and columns of the image."""
    runs = runs_of([rle], tuple(rle["size"]))
    pixels = columns.astype(np.int64)[:, None] * rle["size"][0] + rows
    return (np.searchsorted(runs.edges, pixels, side="right") % 2 == 1).T


def _strokes(runs: Runs) -> _Strokes:
    height = runs.size[0]
    begin, end = runs.edges[0::2], runs.edges[1::2]
    owner = np.repeat(np.arange(len(runs.splits) - 1), np.diff(runs.splits) // 2)
    some = end > begin
    begin, end, owner = begin[some], end[some], owner[some]
    first, last = begin // height, (end - 1) // height
    columns = last - first + 1
    run = np.repeat(np.arange(len(begin)), columns)
    column = first[run] + np.arange(len(run)) - (np.cumsum(columns) - columns)[run]
    top = np.where(column == first[run], begin[run] - column * height, 0)
    bottom = np.where(column == last[run], end[run] - column * height, height)
    return _Strokes(column, top, bottom, owner[run])


def _runs(strokes: _Strokes, masks: int, size: tuple[int, int]) -> Runs:
    edges = np.stack([strokes.top, strokes.bottom], 1) + (strokes.column * size[0])[:, None]
    splits = np.concatenate([[0], 2 * np.cumsum(np.bincount(strokes.owner, minlength=masks))])
    return Runs(edges.reshape(-1), splits.astype(np.int64), size)
