"""Finds masks of overlapping parts of an image that show the same object: whole masks, pieces, duplicates.

A part of an image is a tile, a row of tiles, or the whole image. A mask that reaches an inner edge of its part is cut
there: the object probably continues beyond it. Coordinates are pixels of the image; boxes are (x1, y1, x2, y2).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64
from pycocotools import mask as coco_mask

from fastmask_jax.masks.iou_bounds import greatest_iou
from fastmask_jax.masks.rle_regions import Box, crop
from fastmask_jax.masks.suppression import BLOCK, areas_of

SAME = 0.7  # IoU above which masks of different parts are duplicates
AGREE = 0.5  # IoU above which two masks agree on the pixels that both parts share
SURE = 0.5  # a whole mask replaces a piece only if its score is at least this fraction of the piece's


class Masks(NamedTuple):
    """Masks of a part of an image.

    Attributes:
      rles: compressed RLE of the image's size.
      boxes: (x1, y1, x2, y2) around the masks.
      scores: scores of the masks.
      cut: whether each mask is cut at the edge in question.
      seen: box of the part of the image in which the network found each mask.
    """

    rles: Sequence[Mapping[str, Any]]
    boxes: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, "n"]
    cut: Bool[np.ndarray, "n"]
    seen: Int[np.ndarray, "n 4"]

    def select(self, which: Int64[np.ndarray, "k"]) -> "Masks":
        """Returns some of the masks, by index."""
        arrays = (array[which] for array in (self.boxes, self.scores, self.cut, self.seen))
        return Masks([self.rles[n] for n in which.tolist()], *arrays)


class Pairs(NamedTuple):
    """Pairs of masks and their IoU, in decreasing order."""

    first: Int64[np.ndarray, "p"]
    second: Int64[np.ndarray, "p"]
    iou: Float64[np.ndarray, "p"]


def overlapping(first: Masks, second: Masks, iou_threshold: float, box: Box | None = None) -> Pairs:
    """Finds the pairs of masks whose IoU exceeds the threshold.

    Args:
      first, second: masks of the same image.
      iou_threshold: between 0 and 1.
      box: count only the pixels in this box; None: all pixels.
    """
    rles, edges = zip(*(_within(masks, box) for masks in (first, second)), strict=True)
    areas = [areas_of(some) for some in rles]
    numbers, others, ious = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
    for begin in range(0, len(rles[0]), BLOCK):
        block = slice(begin, begin + BLOCK)
        possible = greatest_iou(edges[0][:, block], areas[0][block], edges[1], areas[1]) > iou_threshold
        for n, may in enumerate(possible, begin):
            rivals = np.flatnonzero(may)
            if len(rivals):
                iou = coco_mask.iou([rles[1][m] for m in rivals.tolist()], [rles[0][n]], [0])[:, 0]
                above = iou > iou_threshold
                numbers.append(np.full(np.count_nonzero(above), n))
                others.append(rivals[above])
                ious.append(iou[above])
    pairs = Pairs(np.concatenate(numbers), np.concatenate(others), np.concatenate(ious))
    order = np.argsort(-pairs.iou, kind="stable")
    return Pairs(*(values[order] for values in pairs))


def pieces_of(pieces: Masks, wholes: Masks) -> Int64[np.ndarray, "k 2"]:
    """Matches cut masks of one part of an image with whole masks of another part.

    Both masks agree in the part where the piece was found; the whole mask extends beyond that part, and its score is
    not much lower.

    Args:
      pieces: masks of a part; masks that are not cut are ignored.
      wholes: masks of another part; masks that are cut are ignored.

    Returns:
      Indices of (piece, whole), at most one row per piece.
    """
    left, top, right, bottom = wholes.boxes.T
    found = [np.zeros((0, 2), np.int64)]
    for box, some in _by_box(pieces, np.flatnonzero(pieces.cut)):
        x1, y1, x2, y2 = box
        beyond = (left < x1) | (top < y1) | (right > x2) | (bottom > y2)
        inside = (left < x2) & (top < y2) & (right > x1) & (bottom > y1)
        whole = np.flatnonzero(~wholes.cut & beyond & inside)
        pairs = overlapping(pieces.select(some), wholes.select(whole), AGREE, box)
        both = np.stack([some[pairs.first], whole[pairs.second]], 1)
        both = both[wholes.scores[both[:, 1]] >= SURE * pieces.scores[both[:, 0]]]
        found.append(both[np.unique(both[:, 0], return_index=True)[1]])
    return np.concatenate(found)


def counterparts(before: Masks, after: Masks) -> Int64[np.ndarray, "k 2"]:
    """Matches cut masks of two neighboring parts one to one, by their agreement where the parts overlap.

    Args:
      before, after: masks of the two parts; masks that are not cut are ignored.

    Returns:
      Indices of (mask of `before`, mask of `after`).
    """
    found: list[tuple[float, int, int]] = []
    groups = _by_box(after, np.flatnonzero(after.cut))
    for box, some in _by_box(before, np.flatnonzero(before.cut)):
        for other_box, others in groups:
            shared = (*np.maximum(box[:2], other_box[:2]).tolist(), *np.minimum(box[2:], other_box[2:]).tolist())
            if shared[0] < shared[2] and shared[1] < shared[3]:
                pairs = overlapping(before.select(some), after.select(others), AGREE, shared)
                found += zip(
                    (-pairs.iou).tolist(), some[pairs.first].tolist(), others[pairs.second].tolist(), strict=True
                )
    taken: tuple[set[int], set[int]] = (set(), set())
    matched = []
    for _, n, m in sorted(found):
        if n not in taken[0] and m not in taken[1]:
            taken[0].add(n)
            taken[1].add(m)
            matched.append((n, m))
    return np.array(matched, np.int64).reshape(-1, 2)


def distinct(first: Masks, second: Masks) -> tuple[Bool[np.ndarray, "n"], Bool[np.ndarray, "m"]]:
    """Returns which masks of two parts are kept after removing duplicates between the parts.

    A mask is dropped if a kept mask of the other part has a higher score and an IoU of more than `SAME` with it; among
    equal scores, the mask of the first part is kept.
    """
    pairs = overlapping(first, second, SAME)
    stays = np.ones(len(first.scores), bool), np.ones(len(second.scores), bool)
    scores = first.scores[pairs.first], second.scores[pairs.second]
    first_wins = scores[0] >= scores[1]
    better = np.where(first_wins, scores[0], scores[1])
    for p in np.lexsort((~first_wins, -better)).tolist():  # better masks are decided first
        winner, loser = (0, 1) if first_wins[p] else (1, 0)
        if stays[winner][pairs[winner][p]]:
            stays[loser][pairs[loser][p]] = False
    return stays


def union(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the union of two masks."""
    both = [{"size": rle["size"], "counts": rle["counts"].encode()} for rle in (first, second)]
    merged = coco_mask.merge(both)
    return {"size": list(first["size"]), "counts": merged["counts"].decode()}


def edge_flags(boxes: Float[np.ndarray, "n 4"], box: Box, size: tuple[int, int], reach: int) -> Bool[np.ndarray, "n 4"]:
    """Returns whether boxes reach the left, upper, right and lower edge of a part, except at the border of the image.

    Args:
      boxes: boxes of the masks.
      box: box of the part.
      size: (H, W) of the image.
      reach: maximum distance from the edge in pixels.
    """
    inner = np.array([box[0] > 0, box[1] > 0, box[2] < size[1], box[3] < size[0]])
    low, high = boxes[:, :2] < np.array(box[:2]) + reach, boxes[:, 2:] > np.array(box[2:]) - reach
    return np.concatenate([low, high], 1) & inner


def _by_box(masks: Masks, some: Int64[np.ndarray, "k"]) -> list[tuple[Box, Int64[np.ndarray, "g"]]]:
    """Groups some of the masks by the part in which they were found."""
    boxes, group = np.unique(masks.seen[some], axis=0, return_inverse=True)
    return [(tuple(box), some[group == number]) for number, box in enumerate(boxes.tolist())]


def _within(masks: Masks, box: Box | None) -> tuple[Sequence[Mapping[str, Any]], Float64[np.ndarray, "4 n"]]:
    """Returns masks and the edges of their boxes, cropped to a box."""
    edges = masks.boxes.astype(np.float64).T
    if box is None:
        return masks.rles, edges
    x1, y1, x2, y2 = box
    low, high = np.array([[x1], [y1], [x1], [y1]]), np.array([[x2], [y2], [x2], [y2]])
    return crop(masks.rles, box), np.clip(edges, low, high)
