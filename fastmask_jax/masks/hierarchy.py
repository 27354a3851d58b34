"""Finds which masks contain which, and which show the same object."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int32, Int64
from pycocotools import mask as coco_mask

from fastmask_jax.errors import InvalidInput
from fastmask_jax.masks.iou_bounds import Coarse, coarse, greatest_iou, iou, most_shared
from fastmask_jax.masks.rle import ScoredMasks
from fastmask_jax.masks.suppression import SHOWN_IOU, suppress

INSIDE = 0.9
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
    if not count:
        return Hierarchy(parent, root, depth)
    x, y, width, height = np.array([coco_mask.toBbox(rle) for rle in rles]).T
    cells, _ = coarse(rles)
    largest_first = np.lexsort((np.arange(count), -areas))
    for place, k in enumerate(largest_first[: np.count_nonzero(areas)].tolist()):  # an empty mask lies in none
        larger = largest_first[:place]
        across = np.minimum(x[larger] + width[larger], x[k] + width[k]) - np.maximum(x[larger], x[k])
        down = np.minimum(y[larger] + height[larger], y[k] + height[k]) - np.maximum(y[larger], y[k])
        larger = larger[np.maximum(across, 0) * np.maximum(down, 0) / areas[k] >= inside]  # the others cannot hold it
        larger = larger[most_shared(cells, larger, np.full(len(larger), k)) / areas[k] >= inside]
        for n in _by_blocks(larger[::-1], rles, k, inside):  # the smallest first: most have found theirs soon
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


def groups(
    rles: Sequence[Mapping[str, Any]], scores: Float[np.ndarray, "n"], iou_threshold: float | int = SHOWN_IOU
) -> Int32[np.ndarray, "n"]:
    """Groups masks that show the same object; returns for each mask the index of the best mask of its group.

    The best masks are those that `suppression.suppress` keeps; every other mask joins the one of them with which it has
    the greatest IoU, of those that rank before it.

    Args:
      rles: masks of one image.
      scores: scores of the masks.
      iou_threshold: 0 to 1; the masks of a group have a greater IoU than this with its best mask.

    Raises:
      ValueError: `iou_threshold` is out of range.
    """
    count = len(rles)
    group = np.arange(count, dtype=np.int32)
    boxes = np.array([coco_mask.toBbox(rle) for rle in rles], np.float32).reshape(-1, 4)
    best = suppress(ScoredMasks(scores.astype(np.float32), boxes, list(rles), np.arange(count), 0), iou_threshold)
    rank = np.empty(count, np.int64)
    rank[np.argsort(-scores, kind="stable")] = np.arange(count)
    if len(best) == count:
        return group
    cells, _ = coarse(rles)
    edges = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1).T.astype(np.float64)
    for k in np.setdiff1d(np.arange(count), best).tolist():
        before = best[rank[best] < rank[k]]
        bounds = greatest_iou(edges[:, [k]], cells.areas[[k]], edges[:, before], cells.areas[before])[0]
        group[k] = _most_similar(before[bounds > iou_threshold], rles, k, cells)
    return group


def _most_similar(
    others: Int64[np.ndarray, "m"],
    rles: Sequence[Mapping[str, Any]],
    k: int,
    cells: Coarse,
) -> int:
    """Returns the first of some masks that has the greatest IoU with mask k; each is compared only if it may."""
    bounds = iou(most_shared(cells, others, np.full(len(others), k)), cells.areas[[k]], cells.areas[others])
    ious = np.full(len(others), -1.0)
    order = np.argsort(-bounds, kind="stable")
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        if bounds[block[0]] < ious.max():
            break
        ious[block] = coco_mask.iou([rles[k]], [rles[n] for n in others[block]], [0] * len(block))[0]
    return int(others[ious.argmax()])
