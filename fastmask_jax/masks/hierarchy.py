"""Finds which masks contain which, and which show the same object."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64
from pycocotools import mask as coco_mask

from fastmask_jax.errors import InvalidInput
from fastmask_jax.masks.rle import decode_counts
from fastmask_jax.masks.suppression import SHOWN_IOU

INSIDE = 0.9
SEGMENTS = 1024  # segments of an image, whose pixel counts bound the intersection of two masks
BLOCK = 16  # masks that are compared with a mask at once


class Hierarchy(NamedTuple):
    """A forest of n masks.

    Attributes:
      parent: int32[n], index of the smallest mask that contains each mask; −1: none.
      root: int32[n], index of the outermost mask that contains each mask; a mask without a parent is its own root.
      depth: int32[n], number of ancestors of each mask.
    """

    parent: Int32[np.ndarray, "n"]
    root: Int32[np.ndarray, "n"]
    depth: Int32[np.ndarray, "n"]

    def children(self, k: int) -> Int64[np.ndarray, "c"]:
        """Returns the indices of the masks whose parent is mask k, ascending."""
        return np.flatnonzero(self.parent == k)


def hierarchy(
    rles: Sequence[Mapping[str, Any]], areas: Int64[np.ndarray, "n"], inside: float | int = INSIDE
) -> Hierarchy:
    """Finds the parent of every mask: the smallest larger mask that contains at least the fraction `inside` of it.

    Among masks of equal area, the earlier one counts as larger. Near-duplicates become each other's parents: suppress
    them first (option `nms_iou`).

    Args:
      rles: masks of one image.
      areas: areas of the masks in pixels.
      inside: fraction of the mask's pixels, above 0 and at most 1.

    Raises:
      ValueError: `inside` is out of range.
    """
    if not 0 < inside <= 1:
        raise InvalidInput(f"inside={inside!r}: expected a share of a mask's pixels, above 0 to 1, such as {INSIDE}")
    count = len(rles)
    parent, root, depth = np.full(count, -1, np.int32), np.arange(count, dtype=np.int32), np.zeros(count, np.int32)
    x, y, width, height = np.array([coco_mask.toBbox(rle) for rle in rles]).reshape(-1, 4).T
    filled = _filled(rles)
    largest_first = np.lexsort((np.arange(count), -areas))
    for place, k in enumerate(largest_first.tolist()):
        larger, wanted = largest_first[:place], inside * areas[k]
        across = np.minimum(x[larger] + width[larger], x[k] + width[k]) - np.maximum(x[larger], x[k])
        down = np.minimum(y[larger] + height[larger], y[k] + height[k]) - np.maximum(y[larger], y[k])
        larger = larger[np.maximum(across, 0) * np.maximum(down, 0) >= wanted]  # the others cannot contain it
        some = np.flatnonzero(filled[k])
        larger = larger[np.minimum(filled[np.ix_(larger, some)], filled[k, some]).sum(1) >= wanted]
        for n in _by_blocks(larger[::-1], rles, k, inside):  # smallest first, because most parents are found early
            parent[k] = n
            root[k], depth[k] = root[n], depth[n] + 1
    return Hierarchy(parent, root, depth)


def _by_blocks(
    numbers: Int64[np.ndarray, "m"], rles: Sequence[Mapping[str, Any]], k: int, inside: float | int
) -> Iterator[int]:
    """Yields the first of the numbered masks that contains the fraction `inside` of mask k, or nothing."""
    for start in range(0, len(numbers), BLOCK):
        block = numbers[start : start + BLOCK]
        # For a "crowd", pycocotools divides the intersection by the mask's area, not by the union.
        shares = coco_mask.iou([rles[k]], [rles[n] for n in block], [1] * len(block))[0]
        if (shares >= inside).any():
            yield int(block[np.argmax(shares >= inside)])
            return


def _filled(rles: Sequence[Mapping[str, Any]]) -> Float32[np.ndarray, "n segments"]:
    """Counts the pixels of each mask in equal segments of the image's pixels, in column order.

    The intersection of two masks has at most the smaller count in each segment.
    """
    filled = np.zeros((len(rles), SEGMENTS), np.float32)
    if not len(rles):
        return filled
    cuts = np.linspace(0, np.prod(rles[0]["size"], dtype=np.int64), SEGMENTS + 1)
    decoded = decode_counts([rle["counts"].encode() for rle in rles])
    splits = np.searchsorted(decoded.owner, np.arange(len(rles) + 1))
    for k, (begin, end) in enumerate(itertools.pairwise(splits)):
        runs = decoded.counts[begin:end].astype(np.float64)
        pixels = np.where(np.arange(len(runs)) % 2, runs, 0.0)
        before = np.interp(cuts, np.cumsum([0.0, *runs]), np.cumsum([0.0, *pixels]))  # pixels before each cut
        filled[k] = np.diff(before)
    return filled


def groups(
    rles: Sequence[Mapping[str, Any]], scores: Float[np.ndarray, "n"], iou_threshold: float | int = SHOWN_IOU
) -> Int32[np.ndarray, "n"]:
    """Groups masks that show the same object; returns for each mask the index of the best mask of its group.

    The best masks are those that `suppression.suppress` keeps. Every other mask joins the best mask with which it has
    the greatest IoU.

    Args:
      rles: masks of one image.
      scores: scores of the masks.
      iou_threshold: 0 to 1; the masks of a group have a greater IoU than this with its best mask.

    Raises:
      ValueError: `iou_threshold` is out of range.
    """
    if not 0 <= iou_threshold <= 1:
        raise InvalidInput(f"iou_threshold={iou_threshold!r}: expected an IoU between 0 and 1, such as {SHOWN_IOU}")
    best: list[int] = []
    group = np.arange(len(rles), dtype=np.int32)
    for k in np.argsort(-scores, kind="stable").tolist():
        ious = coco_mask.iou([rles[k]], [rles[n] for n in best], [0] * len(best))[0] if best else np.zeros(0)
        if len(ious) and ious.max() > iou_threshold:
            group[k] = best[int(ious.argmax())]
        else:
            best.append(k)
    return group
