"""Matches the proposals of one image with its objects by COCO's protocol, as far as recall depends on it.

Each proposal, best first, takes the free object with the greatest IoU at or above the threshold, of several the last.
Crowds and objects outside a range of areas take only proposals that no other object takes, so they never change which
objects are found, and are left out.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64
from pycocotools import mask as coco_mask

from fastmask_jax.masks.iou_bounds import greatest_iou
from fastmask_jax.masks.suppression import areas_of


class Pairs(NamedTuple):
    """Pairs of a proposal and an object that overlap enough to match at the lowest threshold.

    Attributes:
      proposal: int64[p], rank of the proposal.
      target: int64[p], index of the object.
      iou: float64[p].
    """

    proposal: Int64[np.ndarray, "p"]
    target: Int64[np.ndarray, "p"]
    iou: Float64[np.ndarray, "p"]


def box_pairs(boxes: Float64[np.ndarray, "m 4"], targets: Float64[np.ndarray, "n 4"], least: float) -> Pairs:
    """Finds the pairs of boxes (x, y, width, height) with an IoU of at least `least`."""
    if not len(boxes) or not len(targets):
        return _pairs([])
    iou = np.asarray(coco_mask.iou(boxes, targets, np.zeros(len(targets), np.uint8)))
    proposal, target = np.nonzero(iou >= least)
    return Pairs(proposal, target, iou[proposal, target])


def mask_pairs(
    rles: Sequence[Mapping[str, Any]],
    areas: Int[np.ndarray, "m"],
    edges: Float[np.ndarray, "4 m"],
    targets: Sequence[Mapping[str, Any]],
    least: float,
) -> Pairs:
    """Finds the pairs of masks with an IoU of at least `least`; most are ruled out by their boxes and areas.

    Args:
      rles: proposed masks.
      areas: their areas in pixels.
      edges: x1, y1, x2, y2 of boxes around them.
      targets: masks of the objects.
      least: an IoU above 0.
    """
    if not rles or not targets:
        return _pairs([])
    x, y, width, height = np.array([coco_mask.toBbox(rle) for rle in targets]).T
    bounds = greatest_iou(np.stack([x, y, x + width, y + height]), areas_of(targets), edges, areas)
    found = []
    for n, bound in enumerate(bounds):
        near = np.flatnonzero(bound >= least)
        if len(near):
            iou = coco_mask.iou([rles[m] for m in near], [targets[n]], [0])[:, 0]
            match = iou >= least
            found.append((near[match], np.full(np.count_nonzero(match), n), iou[match]))
    return _pairs(found)


def _pairs(found: Sequence[tuple[np.ndarray, ...]]) -> Pairs:
    if not found:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return Pairs(*(np.concatenate(part) for part in zip(*found, strict=True)))


def found_objects(
    pairs: Pairs,
    wanted: Bool[np.ndarray, "areas n"],
    thresholds: Float64[np.ndarray, "thresholds"],
    caps: Sequence[int],
) -> Int64[np.ndarray, "thresholds areas caps"]:
    """Counts the objects that the top proposals find, by IoU threshold, range of areas and number of proposals.

    All thresholds and ranges are matched at once: each is a bit of the integers below, and a bit of an object is set
    when it has been taken at that threshold in that range.

    Args:
      wanted: the objects to find in each range of areas.
      thresholds: ascending; at most 62 combinations with the ranges.
      caps: numbers of proposals, ascending.
    """
    ranges, count = wanted.shape
    one_range = (1 << len(thresholds)) - 1
    lowest_bits = sum(1 << len(thresholds) * k for k in range(ranges))
    allowed = [sum(one_range << len(thresholds) * k for k in range(ranges) if wanted[k, n]) for n in range(count)]
    order = np.lexsort((-pairs.target, -pairs.iou, pairs.proposal))
    levels = np.searchsorted(thresholds, pairs.iou[order], side="right").tolist()  # thresholds that the IoU reaches
    proposals, targets = pairs.proposal[order], pairs.target[order].tolist()
    reached = [((1 << level) - 1) * lowest_bits for level in range(len(thresholds) + 1)]
    ranks, taken = proposals.tolist(), [0] * count
    bits = np.arange(ranges * len(thresholds))
    found = np.zeros((len(thresholds), ranges, len(caps)), np.int64)
    previous = free = -1
    for place, (begin, end) in enumerate(pairwise([0, *np.searchsorted(proposals, caps)])):
        for k in range(begin, end):
            if ranks[k] != previous:
                previous, free = ranks[k], -1
            n = targets[k]
            match = reached[levels[k]] & allowed[n] & ~taken[n] & free
            taken[n] |= match
            free &= ~match
        each = np.array(taken, np.int64)[:, None] >> bits & 1
        found[:, :, place] = each.sum(0).reshape(ranges, len(thresholds)).T
    return found
