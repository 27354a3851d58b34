"""Converts masks to polygons along the sides of their pixels.

Coordinates are (x, y) in pixels of the image; pixel k covers [k, k + 1), as in COCO. An outline with tolerance 0 runs
along pixel sides: it encloses the mask's pixels and no others, and its area is their number.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Int, Int64
from pycocotools import mask as coco_mask

from fastmask_jax.errors import InvalidInput
from fastmask_jax.masks.rle_regions import bitmap

Ring = Float64[np.ndarray, "_ 2"]
TOLERANCE = 1.0


class Polygon(NamedTuple):
    """A connected part of a mask.

    Attributes:
      outer: float64[p, 2], its outline, (x, y), clockwise as seen; the last point joins the first.
      holes: outlines of the holes in it, counterclockwise.
    """

    outer: Ring
    holes: list[Ring]


def polygons(rle: Mapping[str, Any], tolerance: float | int = TOLERANCE) -> list[Polygon]:
    """Finds the outlines of a mask: a polygon for each part that is connected through pixel sides, the largest first.

    Args:
      rle: COCO's compressed RLE.
      tolerance: maximum distance of the outline from the exact one in pixels, by the Douglas-Peucker algorithm. 0: the
        exact outline; about 1 straightens the steps of slanted lines.

    Raises:
      ValueError: `tolerance` is negative.
    """
    if not 0 <= tolerance < np.inf:
        raise InvalidInput(f"tolerance={tolerance!r}: expected a number of pixels, 0 or more")
    x, y, width, height = coco_mask.toBbox(rle).astype(int).tolist()
    if not width:
        return []
    mask = bitmap(rle, (x, y, x + width, y + height))
    outer: dict[int, Ring] = {}
    holes: dict[int, list[Ring]] = {}
    areas: dict[int, float] = {}
    for ring, part in _outlines(mask):
        area = signed_area(ring)
        if area > 0:
            outer[part], areas[part] = ring, area
        else:
            holes.setdefault(part, []).append(ring)
    largest_first = sorted(outer, key=lambda part: -areas[part])

    def finished(ring: Ring) -> Ring:
        return _simplified(ring, tolerance) + np.array([x, y])

    return [Polygon(finished(outer[part]), [finished(ring) for ring in holes.get(part, [])]) for part in largest_first]


def signed_area(ring: Ring) -> float:
    """Computes the area inside a ring; positive if it runs clockwise as seen, with y down."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - np.roll(x, -1) @ y) / 2


def keyholed(polygon: Polygon) -> Ring:
    """Converts a polygon with holes to a single ring, for file formats without holes.

    A horizontal cut of zero width joins each hole to the nearest edge on its left.
    """
    ring = polygon.outer
    for hole in sorted(polygon.holes, key=lambda hole: hole[:, 0].min()):
        start = int(np.argmin(hole[:, 0]))
        ring = _joined(ring, np.roll(hole, -start, axis=0), *_left_of(ring, hole[start]))
    return ring


def one_ring(parts: Sequence[Polygon]) -> Ring:
    """Converts all parts of a mask to a single ring, for file formats with one ring per object.

    Cuts of zero width join the parts at their nearest corners. Without parts, the ring has no points.
    """
    if not parts:
        return np.zeros((0, 2))
    first, *others = (keyholed(part) for part in parts)
    ring = first
    for other in others:
        distance = np.square(ring[:, None] - other[None]).sum(-1)
        here, there = np.unravel_index(np.argmin(distance), distance.shape)
        ring = _joined(ring, np.roll(other, -int(there), axis=0), int(here), ring[here])
    return ring


def _joined(ring: Ring, other: Ring, edge: int, at: Float64[np.ndarray, "2"]) -> Ring:
    """Joins two rings: up to point `edge`, along a cut from `at` around the other ring, and back."""
    return np.concatenate([ring[: edge + 1], [at], other, other[:1], [at], ring[edge + 1 :]])


def _left_of(ring: Ring, point: Float64[np.ndarray, "2"]) -> tuple[int, Float64[np.ndarray, "2"]]:
    """Returns the index of the nearest edge to the left of a point, and the position on it at the point's height.

    If a simplified outline has no edge there, the nearest corner is returned.
    """
    (x1, y1), (x2, y2) = ring.T, np.roll(ring, -1, axis=0).T
    crosses = (np.minimum(y1, y2) <= point[1]) & (point[1] <= np.maximum(y1, y2)) & (y1 != y2)
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.where(crosses, x1 + (point[1] - y1) * (x2 - x1) / (y2 - y1), -np.inf)
    x[~(x <= point[0])] = -np.inf
    edge = int(np.argmax(x))
    if x[edge] == -np.inf:
        nearest = int(np.argmin(np.square(ring - point).sum(1)))
        return nearest, ring[nearest]
    return edge, np.array([x[edge], point[1]])


def _simplified(ring: Ring, tolerance: float | int) -> Ring:
    """Simplifies a ring, unless it would lose its area."""
    if tolerance == 0 or len(ring) <= 4:
        return ring
    fewer = cv2.approxPolyDP(ring.astype(np.float32)[:, None], tolerance, True)[:, 0].astype(np.float64)
    return fewer if len(fewer) >= 3 and signed_area(fewer) * signed_area(ring) > 0 else ring


class _Corners(NamedTuple):
    """Corners of outlines. Two pixels of the mask that touch only at a corner have separate corners there.

    Attributes:
      place: int64[c, 2], (x, y).
      follower: int64[c], index of the next corner of the outline, with the mask on the right.
      part: int64[c], label of the connected part.
    """

    place: Int64[np.ndarray, "c 2"]
    follower: Int64[np.ndarray, "c"]
    part: Int64[np.ndarray, "c"]


def _outlines(mask: Bool[np.ndarray, "h w"]) -> list[tuple[Ring, int]]:
    """Returns the outlines of a mask as (ring, label of the part); no outline touches itself."""
    corners = _corners(mask)
    places, follower, parts = (values.tolist() for values in corners)
    done = [False] * len(places)
    rings: list[tuple[Ring, int]] = []
    for start in range(len(places)):
        walk: list[tuple[int, int]] = []
        met: dict[tuple[int, int], int] = {}
        k = start
        while not done[k]:
            done[k] = True
            place = tuple(places[k])
            if place in met:  # the outline meets itself: split off the closed part
                rings.append((np.array(walk[met[place] :], np.float64), parts[k]))
                for passed in walk[met[place] :]:
                    del met[passed]
                del walk[len(walk) - (len(rings[-1][0])) :]
            met[place] = len(walk)
            walk.append(place)
            k = follower[k]
        if walk:
            rings.append((np.array(walk, np.float64), parts[start]))
    return [(_without_straight_corners(ring), part) for ring, part in rings]


def _without_straight_corners(ring: Ring) -> Ring:
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def _corners(mask: Bool[np.ndarray, "h w"]) -> _Corners:
    padded = np.pad(mask, 1)
    _, labels = cv2.connectedComponents(padded.view(np.uint8), connectivity=4)
    nw, ne, sw, se = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    west, east, north, south = nw != sw, ne != se, nw != ne, sw != se  # pixel sides that end at each corner
    found = []
    single = (west != east) & (north != south)
    y, x = np.nonzero(single)
    found.append((y, x, east[y, x], south[y, x]))
    saddle = west & east & north & south
    for falling in (True, False):  # diagonal pixels: upper left and lower right, or the other two
        y, x = np.nonzero(saddle & (nw == falling))
        for to_east in (False, True):
            found.append((y, x, np.full(len(y), to_east), np.full(len(y), to_east == falling)))
    y, x, to_east, to_south = (np.concatenate(values) for values in zip(*found, strict=True))
    beside, beyond = _pairs(y, x, to_east), _pairs(x, y, to_south)

    # Sides above the mask are traversed to the east, sides below it to the west.
    column = x + to_east  # in `padded`, that of the pixels above and below the horizontal side
    below = padded[y + 1, column]
    follower = np.where(below == to_east, beside, beyond)
    part = labels[np.where(below, y + 1, y), column]
    return _Corners(np.stack([x, y], 1), follower, part.astype(np.int64))


def _pairs(
    line: Int[np.ndarray, "c"], along: Int[np.ndarray, "c"], onward: Bool[np.ndarray, "c"]
) -> Int64[np.ndarray, "c"]:
    """Returns the other end of the straight side that starts at each corner; starts and ends alternate on a line."""
    order = np.lexsort((onward, along, line))
    partner = np.empty(len(order), np.int64)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return partner
