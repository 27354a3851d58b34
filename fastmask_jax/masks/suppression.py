"""Greedy non-maximum suppression by exact mask IoU (docs/network.md §3: for display)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64
from pycocotools import mask as coco_mask

from fastmask_jax.errors import InvalidInput
from fastmask_jax.masks.odds import DUPLICATE, scaled_odds
from fastmask_jax.masks.rle import ScoredMasks

SHOWN_IOU = 0.5  # threshold for display
BLOCK = 64  # masks whose boxes are compared with all later ones at once


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
    masks = [proposals.segmentations[n] for n in order]
    x, y, width, height = proposals.boxes[order].astype(np.float64).T
    areas = areas_of(masks)
    edges = np.stack([x, y, x + width, y + height])
    stays = np.ones(len(masks), bool)
    for begin in range(0, len(masks), BLOCK):
        better = begin + np.flatnonzero(stays[begin : begin + BLOCK])
        possible = may_exceed(edges[:, better], areas[better], edges[:, begin:], areas[begin:], iou_threshold)
        for n, may in zip(better.tolist(), possible, strict=True):
            if stays[n]:
                later = n + 1 + np.flatnonzero(stays[n + 1 :] & may[n + 1 - begin :])
                if len(later):
                    iou = coco_mask.iou([masks[m] for m in later], [masks[n]], [0])[:, 0]
                    stays[later[iou > iou_threshold]] = False
    return order[stays]


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


def may_exceed(
    edges: Float[np.ndarray, "4 a"],
    areas: Float[np.ndarray, "a"],
    other_edges: Float[np.ndarray, "4 b"],
    other_areas: Float[np.ndarray, "b"],
    iou_threshold: float,
) -> Bool[np.ndarray, "a b"]:
    """Returns which pairs of masks can exceed an IoU, bounded by boxes and areas.

    Args:
      edges, other_edges: x1, y1, x2, y2 of boxes around the masks.
      areas, other_areas: areas of the masks in pixels.
      iou_threshold: between 0 and 1.
    """
    x1, y1, x2, y2 = other_edges
    left, top, right, bottom = edges[:, :, None]
    width = np.minimum(x2, right) - np.maximum(x1, left)
    height = np.minimum(y2, bottom) - np.maximum(y1, top)
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    area = areas[:, None]
    most = np.minimum(shared, np.minimum(other_areas, area))
    return most > iou_threshold * (other_areas + area - most)
