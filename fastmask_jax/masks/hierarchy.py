"""Finds which masks contain which, and which show the same object."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int32, Int64
from pycocotools import mask as coco_mask

from fastmask_jax.errors import InvalidInput
from fastmask_jax.masks.suppression import SHOWN_IOU

INSIDE = 0.9


class Hierarchy(NamedTuple):
    """A forest of n masks.

    Attributes:
      parent: int32[n], the number of the smallest mask that each one lies in; −1: none.
      root: int32[n], the number of the outermost mask around each one; a mask without a parent is its own root.
      depth: int32[n], how many masks lie around each one along its parents; 0: none.
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
    """Finds the parent of every mask: the smallest larger mask that holds at least `inside` of its pixels.

    Of masks of equal area the earlier one counts as the larger. Near-duplicates become each other's parents: suppress
    them first (option `nms_iou`).

    Args:
      rles: of one image.
      areas: their pixels.
      inside: share of the mask's pixels, above 0 to 1.

    Raises:
      ValueError: no such share.
    """
    if not 0 < inside <= 1:
        raise InvalidInput(f"inside={inside!r}: expected a share of a mask's pixels, above 0 to 1, such as {INSIDE}")
    count = len(rles)
    parent, root, depth = np.full(count, -1, np.int32), np.arange(count, dtype=np.int32), np.zeros(count, np.int32)
    x, y, width, height = np.array([coco_mask.toBbox(rle) for rle in rles]).reshape(-1, 4).T
    largest_first = np.lexsort((np.arange(count), -areas))
    for place, k in enumerate(largest_first.tolist()):
        larger = largest_first[:place]
        across = np.minimum(x[larger] + width[larger], x[k] + width[k]) - np.maximum(x[larger], x[k])
        down = np.minimum(y[larger] + height[larger], y[k] + height[k]) - np.maximum(y[larger], y[k])
        larger = larger[np.maximum(across, 0) * np.maximum(down, 0) >= inside * areas[k]]  # the others cannot hold it
        if not len(larger):
            continue
        # Of a "crowd" pycocotools gives the intersection as a share of the mask, not of the union.
        shares = coco_mask.iou([rles[k]], [rles[n] for n in larger], [1] * len(larger))[0]
        around = larger[shares >= inside]
        if len(around):
            parent[k] = around[-1]
            root[k], depth[k] = root[parent[k]], depth[parent[k]] + 1
    return Hierarchy(parent, root, depth)


def groups(
    rles: Sequence[Mapping[str, Any]], scores: Float[np.ndarray, "n"], iou_threshold: float | int = SHOWN_IOU
) -> Int32[np.ndarray, "n"]:
    """Groups masks that show the same object: of each mask, the number of the best mask of its group.

    The best masks are those that `suppression.suppress` keeps; every other mask joins the one of them with which it has
    the greatest IoU.

    Args:
      rles: of one image.
      scores: of the masks.
      iou_threshold: 0 to 1; the masks of a group have a greater IoU than this with its best one.

    Raises:
      ValueError: no such IoU.
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
