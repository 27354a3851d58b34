"""Greedy suppression of proposals whose masks say the same, by exact mask IoU (spec section 3: for showing)."""

import numpy as np
from jaxtyping import Bool, Float, Int64
from pycocotools import mask as coco_mask

from fastmask_jax.inference.rle import Proposals

SHOWN_SCORE = 0.9
SHOWN_IOU = 0.5


def suppress(proposals: Proposals, iou_threshold: float) -> Int64[np.ndarray, "k"]:
    """Numbers of the proposals that stay, best first: those whose mask has IoU ≤ `iou_threshold` with every better one
    that stays. Of equal scores the first is the better one.

    Args:
      proposals: of one image, in any order.
      iou_threshold: between 0 and 1.
    """
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold={iou_threshold}: an IoU is between 0 and 1, such as {SHOWN_IOU}")
    order = np.argsort(-proposals.scores, kind="stable")
    masks = [proposals.segmentations[n] for n in order]
    x, y, width, height = proposals.boxes[order].astype(np.float64).T
    areas = np.array([coco_mask.area(mask) for mask in masks], np.float64)  # of more than 255 at once it fails
    edges = np.stack([x, y, x + width, y + height])
    stays = np.ones(len(masks), bool)
    for n in range(len(masks)):
        if stays[n]:
            later = n + 1 + np.flatnonzero(stays[n + 1 :] & _may_exceed(edges[:, n:], areas[n:], iou_threshold))
            if len(later):
                iou = coco_mask.iou([masks[m] for m in later], [masks[n]], [0])[:, 0]
                stays[later[iou > iou_threshold]] = False
    return order[stays]


def show_selection(
    proposals: Proposals, least_score: float = SHOWN_SCORE, iou_threshold: float = SHOWN_IOU
) -> Int64[np.ndarray, "k"]:
    """Numbers of the proposals worth showing, best first: of score ≥ `least_score`, after `suppress`."""
    kept = suppress(proposals, iou_threshold)  # a worse proposal never suppresses a better one: the order is free
    return kept[proposals.scores[kept] >= least_score]


def _may_exceed(
    edges: Float[np.ndarray, "4 m"], areas: Float[np.ndarray, "m"], iou_threshold: float
) -> Bool[np.ndarray, "later"]:
    """Which masks after the first can have a greater IoU with it: no more than boxes and areas have in common."""
    x1, y1, x2, y2 = edges
    width = np.minimum(x2[1:], x2[0]) - np.maximum(x1[1:], x1[0])
    height = np.minimum(y2[1:], y2[0]) - np.maximum(y1[1:], y1[0])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    most = np.minimum(shared, np.minimum(areas[1:], areas[0]))
    return most > iou_threshold * (areas[1:] + areas[0] - most)
