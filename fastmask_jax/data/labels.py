"""Which windows are positive, which are hard negatives, and which of them are trained on (docs/network.md §2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, Int64

from fastmask_jax.geometry import WINDOW, all_windows, window_grids


@dataclass(frozen=True)
class LabelSpec:
    """The numbers of docs/network.md §2. Fractions are of a window's side."""

    fit_low: float = 0.42
    fit_high: float = 0.68
    center: float = 0.2
    score_positives: int = 32
    score_negatives: int = 32
    mask_positives: int = 64


class WindowLabels(NamedTuple):
    """Every window of an image with its label; what is neither positive nor hard negative is not trained on."""

    windows: Int32[np.ndarray, "N 3"]  # (level, i, j)
    matched: Int32[np.ndarray, "N"]  # number of the object for which the window is positive, −1: for none
    hard_negative: Bool[np.ndarray, "N"]

    @property
    def positive(self) -> Bool[np.ndarray, "N"]:
        return self.matched >= 0


class WindowSample(NamedTuple):
    """The windows of an image that are trained on; padding rows are windows (0, 0, 0) of weight 0."""

    score_windows: Int32[np.ndarray, "S 3"]
    score_labels: Float32[np.ndarray, "S"]  # 1 positive, 0 hard negative
    score_weights: Float32[np.ndarray, "S"]
    mask_windows: Int32[np.ndarray, "P 3"]
    mask_weights: Float32[np.ndarray, "P"]
    mask_objects: Int32[np.ndarray, "P"]  # number of the window's object, −1 in padding rows


def whole_boxes(boxes: Float[np.ndarray, "n 4"]) -> Int64[np.ndarray, "n 4"]:
    """COCO boxes (x, y, width, height) rounded to whole original pixels, halves to even."""
    return np.rint(boxes).astype(np.int64)


def trainable(boxes: Int[np.ndarray, "n 4"], crowd: Bool[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Which objects get windows: all but crowds and those whose rounded box has no area."""
    return ~crowd & (boxes[:, 2:] > 0).all(axis=1)


def label_windows(
    boxes: Int[np.ndarray, "n 4"],
    crowd: Bool[np.ndarray, "n"],
    original: tuple[int, int],
    resized: tuple[int, int],
    strides: Sequence[int],
    spec: LabelSpec,
) -> WindowLabels:
    """Labels of all windows of a resized image. Borders of squares and of size ranges belong to them.

    Of several objects at the same distance from a window's center the first wins.

    Args:
      boxes: `whole_boxes`, in original pixels.
      crowd: which objects are crowds; they are left out, as are boxes without area.
      original, resized: (height, width) of the image file, and of the image that the network sees.
      strides: strides of the levels in resized pixels.
    """
    objects = np.flatnonzero(trainable(boxes, crowd))
    corner, side = boxes[objects, 1::-1], boxes[objects, :1:-1]  # (y, x), (height, width)
    numerator, denominator = np.array(resized), np.array(original)
    center = (2 * corner + side) * numerator / (2 * denominator)  # one rounding each: exact borders stay exact
    longest = (side * numerator / denominator).max(axis=1)

    matched, hard = [], []
    for stride, (rows, columns) in zip(strides, window_grids(*resized, strides), strict=True):
        span = WINDOW * stride
        fits = (spec.fit_low * span <= longest) & (longest <= spec.fit_high * span)
        offset_y = np.abs(np.arange(rows) * stride - center[:, :1])  # [n, rows]
        offset_x = np.abs(np.arange(columns) * stride - center[:, 1:])  # [n, columns]
        centered_y, centered_x = offset_y <= spec.center * span / 2, offset_x <= spec.center * span / 2

        level_matched = np.full((rows, columns), -1, np.int32)
        n, i, j = np.nonzero((centered_y[:, :, None] & centered_x[:, None]) & fits[:, None, None])
        farthest_first = np.lexsort((-n, -(offset_y[n, i] ** 2 + offset_x[n, j] ** 2)))
        n, i, j = n[farthest_first], i[farthest_first], j[farthest_first]
        level_matched[i, j] = objects[n]  # of repeated places the last assignment, the nearest object, stays

        near = _any_covers((offset_y <= span / 2)[fits], (offset_x <= span / 2)[fits])
        off_size = _any_covers(centered_y[~fits], centered_x[~fits])
        matched.append(level_matched.ravel())
        hard.append(((near | off_size) & (level_matched < 0)).ravel())
    return WindowLabels(all_windows(*resized, strides), np.concatenate(matched), np.concatenate(hard))


def _any_covers(rows: Bool[np.ndarray, "m h"], columns: Bool[np.ndarray, "m w"]) -> Bool[np.ndarray, "h w"]:
    """Where any of m rectangles, given by their rows and columns, lies: a product instead of m × h × w booleans."""
    return rows.T.astype(np.float32) @ columns.astype(np.float32) > 0


def sample(labels: WindowLabels, rng: np.random.Generator, spec: LabelSpec) -> WindowSample:
    """The windows to train on, drawn uniformly without replacement; fewer where there are fewer."""

    def draw(candidates: Bool[np.ndarray, "N"], count: int) -> Int[np.ndarray, "k"]:
        numbers = np.flatnonzero(candidates)
        return rng.choice(numbers, min(count, len(numbers)), replace=False)

    positives = draw(labels.positive, spec.score_positives)
    negatives = draw(labels.hard_negative, spec.score_negatives)
    masks = draw(labels.positive, spec.mask_positives)
    scored = np.concatenate([positives, negatives])
    S, P = spec.score_positives + spec.score_negatives, spec.mask_positives
    return WindowSample(
        score_windows=_padded(labels.windows[scored], S, 0),
        score_labels=_padded(labels.positive[scored].astype(np.float32), S, 0),
        score_weights=_padded(np.ones(len(scored), np.float32), S, 0),
        mask_windows=_padded(labels.windows[masks], P, 0),
        mask_weights=_padded(np.ones(len(masks), np.float32), P, 0),
        mask_objects=_padded(labels.matched[masks], P, -1),
    )


def _padded(rows: np.ndarray, length: int, fill: int) -> np.ndarray:
    result = np.full((length, *rows.shape[1:]), fill, rows.dtype)
    result[: len(rows)] = rows
    return result
