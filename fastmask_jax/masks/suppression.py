"""Greedy non-maximum suppression by exact mask IoU (docs/network.md §3: for display)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from pycocotools import mask as coco_mask

from fastmask_jax.errors import InvalidInput
from fastmask_jax.masks.intersections import shared_pixels
from fastmask_jax.masks.iou_bounds import Coarse, coarse, greatest_iou, iou, iou_ranges
from fastmask_jax.masks.odds import DUPLICATE, scaled_odds
from fastmask_jax.masks.paste import Runs
from fastmask_jax.masks.rle import ScoredMasks

SHOWN_IOU = 0.5  # threshold for display
BLOCK = 64  # masks that are compared with all better ones at once


def suppress(proposals: ScoredMasks, iou_threshold: float) -> Int64[np.ndarray, "k"]:
    """Returns the indices of kept proposals, highest score first.

    A proposal is kept if its mask has IoU ≤ `iou_threshold` with every kept proposal of a higher score. Among equal
    scores, the first ranks higher.

    Args:
      proposals: of one image, in any order.
      iou_threshold: between 0 and 1.
    """
    if not 0 <= iou_threshold <= 1:
        raise InvalidInput(f"iou_threshold={iou_threshold}: expected an IoU between 0 and 1, such as {SHOWN_IOU}")
    order = np.argsort(-proposals.scores, kind="stable")
    if not len(order):
        return order
    masks = [proposals.segmentations[n] for n in order]
    x, y, width, height = proposals.boxes[order].astype(np.float64).T
    edges = np.stack([x, y, x + width, y + height])
    cells, runs = coarse(masks)
    kept = np.zeros(0, np.int64)
    for begin in range(0, len(masks), BLOCK):
        block = np.arange(begin, min(begin + BLOCK, len(masks)))
        rivals = np.concatenate([kept, block])
        may = greatest_iou(edges[:, rivals], cells.areas[rivals], edges[:, block], cells.areas[block]) > iou_threshold
        exceeds = _exceeding(cells, runs, rivals, block, may & (rivals[:, None] < block), iou_threshold, len(kept))
        stays = np.ones(len(rivals), bool)  # rivals that are not suppressed themselves
        for k in np.flatnonzero(exceeds.any(0)).tolist():
            stays[len(kept) + k] = not (exceeds[:, k] & stays).any()
        kept = rivals[stays]
    return order[kept]


def reranked_scores(proposals: ScoredMasks, iou_threshold: float) -> Float32[np.ndarray, "m"]:
    """Lowers the scores of near-duplicates: those that `suppress` would remove have their odds multiplied by DUPLICATE.

    So a list starts with mostly distinct proposals, and near-duplicates of good ones rank before distinct poor ones.

    Args:
      proposals: of one image, in any order.
      iou_threshold: between 0 and 1.
    """
    scores = scaled_odds(proposals.scores, DUPLICATE)
    kept = suppress(proposals, iou_threshold)
    scores[kept] = proposals.scores[kept]
    return scores


def areas_of(rles: Sequence[Mapping[str, Any]]) -> Float64[np.ndarray, "m"]:
    """Counts the pixels of masks."""
    return np.array([coco_mask.area(rle) for rle in rles], np.float64)  # fails beyond 255 masks


def _exceeding(
    cells: Coarse,
    runs: Runs,
    rivals: Int64[np.ndarray, "r"],
    block: Int64[np.ndarray, "b"],
    may: Bool[np.ndarray, "r b"],
    iou_threshold: float | int,
    kept: int,
) -> Bool[np.ndarray, "r b"]:
    """Returns which pairs of masks have an IoU above the threshold.

    Pairs are not looked at if one of them is suppressed by one of the first `kept` rivals, which are not suppressed.
    """
    exceeds = np.zeros_like(may)
    rival, later = np.nonzero(may)
    least, greatest = iou_ranges(cells, rivals[rival], block[later], iou_threshold)
    exceeds[rival, later] = least > iou_threshold
    free = ~exceeds[:kept].any(0)
    unsure = (least <= iou_threshold) & (greatest > iou_threshold) & free[later]
    unsure[unsure] = np.concatenate([np.ones(kept, bool), free])[rival[unsure]]
    rival, later = rival[unsure], later[unsure]
    first, second = rivals[rival], block[later]
    ious = iou(shared_pixels(runs, first, second), cells.areas[first], cells.areas[second])
    exceeds[rival, later] = ious > iou_threshold
    return exceeds
