"""Draws the targets of the objectness attention of each level (docs/network.md §5)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, UInt8

from fastmask_jax.data.labels import LabelSpec, fitting_objects
from fastmask_jax.data.targets import InstanceMask
from fastmask_jax.geometry import window_grids

NOTHING, OBJECT, IGNORED = 0, 1, 2
NEGATIVES_PER_POSITIVE = 3


def attended_windows(
    boxes: Int[np.ndarray, "n 4"],
    crowd: Bool[np.ndarray, "n"],
    masks: Sequence[InstanceMask],
    original: tuple[int, int],
    resized: tuple[int, int],
    strides: Sequence[int],
    spec: LabelSpec,
) -> Bool[np.ndarray, "N"]:
    """Returns windows to attend to: for each level, the union of the masks of the objects that fit it.

    The union, in original pixels, is resized to the level's (h + 1) x (w + 1) windows by nearest neighbor: window
    (i, j) takes pixel (floor(i * H / (h + 1)), floor(j * W / (w + 1))) of the H x W original image.

    Args:
      boxes, crowd, original, resized, strides, spec: as of `labels.label_windows`.
      masks: of all objects, in original pixels.
    """
    fitting = fitting_objects(boxes, crowd, original, resized, strides, spec)
    pixels = {int(n): masks[n].crop() for n in np.flatnonzero(fitting.any(axis=0))}
    levels = []
    for (rows, columns), fits in zip(window_grids(*resized, strides), fitting, strict=True):
        union = np.zeros((rows, columns), bool)
        ys, xs = np.arange(rows) * original[0] // rows, np.arange(columns) * original[1] // columns
        for n in np.flatnonzero(fits):
            x, y, mask = pixels[int(n)]
            i, j = (
                slice(*np.searchsorted(ys, (y, y + mask.shape[0]))),
                slice(*np.searchsorted(xs, (x, x + mask.shape[1]))),
            )
            union[i, j] |= mask[np.ix_(ys[i] - y, xs[j] - x)] > 0
        levels.append(union.ravel())
    return np.concatenate(levels)


def draw_objectness_targets(
    attended: Bool[np.ndarray, "N"],
    known: Bool[np.ndarray, "N"],
    resized: tuple[int, int],
    strides: Sequence[int],
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "N"]:
    """Draws the target of every window.

    OBJECT for windows to attend to; NOTHING for at most three times as many others of their level, drawn at random from
    those known to contain no object; IGNORED elsewhere.
    """
    targets = np.where(attended, OBJECT, IGNORED).astype(np.uint8)
    start = 0
    for rows, columns in window_grids(*resized, strides):
        level = slice(start, start + rows * columns)
        others = start + np.flatnonzero(known[level] & ~attended[level])
        count = min(NEGATIVES_PER_POSITIVE * int(attended[level].sum()), len(others))
        targets[rng.choice(others, count, replace=False)] = NOTHING
        start = level.stop
    return targets


def place_in_bucket(
    targets: UInt8[np.ndarray, "N"], resized: tuple[int, int], bucket: tuple[int, int], strides: Sequence[int]
) -> UInt8[np.ndarray, "M"]:
    """Places the targets of an image's windows among all windows of its bucket; the others are IGNORED."""
    parts, start = [], 0
    for own, padded in zip(window_grids(*resized, strides), window_grids(*bucket, strides), strict=True):
        level = np.full(padded, IGNORED, np.uint8)
        level[: own[0], : own[1]] = targets[start : start + own[0] * own[1]].reshape(own)
        parts.append(level.ravel())
        start += own[0] * own[1]
    return np.concatenate(parts)
