"""Labels windows as positive or hard negative and samples those to train on (docs/network.md §2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, Int64

from fastmask_jax.geometry import WINDOW, all_windows, window_grids


@dataclass(frozen=True)
class LabelSpec:
    """The numbers of docs/network.md §2. Fractions are of a window's side."""

    fit_low: float
    fit_high: float
    center: float
    score_positives: int
    score_negatives: int
    mask_positives: int
    finest_fit_low: float = 0.0  # `fit_low` of the finest level; 0: the same
    random_negatives: int = 0  # drawn from all windows that are not positive
    ignore_unknown: bool = False  # windows that may contain an unlabeled object are no negatives


class WindowLabels(NamedTuple):
    """All windows of an image with their labels."""

    windows: Int32[np.ndarray, "N 3"]  # (level, i, j)
    matched: Int32[np.ndarray, "N"]  # number of the object for which the window is positive; −1: none
    hard_negative: Bool[np.ndarray, "N"]
    background: Bool[
        np.ndarray, "N"
    ]  # not positive, and known to hold no object that fits: random negatives come from here

    def within(self, chosen: Bool[np.ndarray, "N"]) -> "WindowLabels":
        """Returns the same windows; unselected ones become neither positive nor hard negative.

        The background stays: random negatives are drawn from all windows.
        """
        matched = np.where(chosen, self.matched, np.int32(-1))
        return self._replace(matched=matched, hard_negative=self.hard_negative & chosen)

    @property
    def positive(self) -> Bool[np.ndarray, "N"]:
        return self.matched >= 0


class WindowSample(NamedTuple):
    """The sampled windows of an image; padding rows are windows (0, 0, 0) of weight 0."""

    score_windows: Int32[np.ndarray, "S 3"]
    score_labels: Float32[np.ndarray, "S"]  # 1 positive, 0 negative; positives first, the first of `mask_windows`
    score_weights: Float32[np.ndarray, "S"]
    mask_windows: Int32[np.ndarray, "P 3"]
    mask_weights: Float32[np.ndarray, "P"]
    mask_objects: Int32[np.ndarray, "P"]  # number of the window's object, −1 in padding rows


def whole_boxes(boxes: Float[np.ndarray, "n 4"]) -> Int64[np.ndarray, "n 4"]:
    """Rounds COCO boxes (x, y, width, height) to whole original pixels, half to even."""
    return np.rint(boxes).astype(np.int64)


def trainable(boxes: Int[np.ndarray, "n 4"], crowd: Bool[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Returns which objects get windows: all except crowds and those whose rounded box has no area."""
    return ~crowd & (boxes[:, 2:] > 0).all(axis=1)


def label_windows(
    boxes: Int[np.ndarray, "n 4"],
    crowd: Bool[np.ndarray, "n"],
    original: tuple[int, int],
    resized: tuple[int, int],
    strides: Sequence[int],
    spec: LabelSpec,
    unlabeled: Bool[np.ndarray, "H W"] | None = None,
    partly_labeled: bool = False,
) -> WindowLabels:
    """Labels all windows of a resized image. Squares and size ranges include their borders.

    If several objects have the same distance from the center of a window, the first one is used.

    Args:
      boxes: `whole_boxes`, in original pixels.
      crowd: which objects are crowds; they are ignored, as are boxes without area.
      original, resized: (height, width) of the image file, and of the image that the network sees.
      strides: strides of the levels in resized pixels.
      unlabeled: pixels of regions whose objects are not labeled individually (crowds); None: none.
      partly_labeled: there may be unlabeled objects, so windows away from every label are not negatives.
    """
    objects = np.flatnonzero(trainable(boxes, crowd))
    corner, side = boxes[objects, 1::-1], boxes[objects, :1:-1]  # (y, x), (height, width)
    numerator, denominator = np.array(resized), np.array(original)
    center = (2 * corner + side) * numerator / (2 * denominator)  # a single rounding keeps exact borders exact
    fitting = fitting_objects(boxes, crowd, original, resized, strides, spec)[:, objects]

    matched, hard, background = [], [], []
    for stride, (rows, columns), fits in zip(strides, window_grids(*resized, strides), fitting, strict=True):
        span = WINDOW * stride
        offset_y = np.abs(np.arange(rows) * stride - center[:, :1])  # [n, rows]
        offset_x = np.abs(np.arange(columns) * stride - center[:, 1:])  # [n, columns]
        centered_y, centered_x = offset_y <= spec.center * span / 2, offset_x <= spec.center * span / 2

        level_matched = np.full((rows, columns), -1, np.int32)
        n, i, j = np.nonzero((centered_y[:, :, None] & centered_x[:, None]) & fits[:, None, None])
        farthest_first = np.lexsort((-n, -(offset_y[n, i] ** 2 + offset_x[n, j] ** 2)))
        n, i, j = n[farthest_first], i[farthest_first], j[farthest_first]
        level_matched[i, j] = objects[n]  # for repeated indices the last assignment counts: the nearest object

        near = _any_covers((offset_y <= span / 2)[fits], (offset_x <= span / 2)[fits])
        off_size = _any_covers(centered_y[~fits], centered_x[~fits])
        known = _known(rows, columns, stride, original, resized, unlabeled) if spec.ignore_unknown else True
        if spec.ignore_unknown and spec.fit_low * span > max(resized):
            known = False  # too coarse for any object of this image: trivial negatives
        matched.append(level_matched.ravel())
        hard.append(((near | off_size) & (level_matched < 0) & known).ravel())
        background.append(((level_matched < 0) & known & (not partly_labeled)).ravel())
    return WindowLabels(all_windows(*resized, strides), *map(np.concatenate, (matched, hard, background)))


def fitting_objects(
    boxes: Int[np.ndarray, "n 4"],
    crowd: Bool[np.ndarray, "n"],
    original: tuple[int, int],
    resized: tuple[int, int],
    strides: Sequence[int],
    spec: LabelSpec,
) -> Bool[np.ndarray, "L n"]:
    """Returns which trainable objects fit the windows of each level; arguments as in `label_windows`."""
    longest = (boxes[:, :1:-1] * np.array(resized) / np.array(original)).max(axis=1, initial=0)
    span = WINDOW * np.array(strides)[:, None]
    low = np.full(span.shape, spec.fit_low)
    if spec.finest_fit_low:
        low[np.argmin(strides)] = spec.finest_fit_low
    return (low * span <= longest) & (longest <= spec.fit_high * span) & trainable(boxes, crowd)


def _known(
    rows: int,
    columns: int,
    stride: int,
    original: tuple[int, int],
    resized: tuple[int, int],
    unlabeled: Bool[np.ndarray, "H W"] | None,
) -> Bool[np.ndarray, "rows columns"] | bool:
    """Returns which windows of a level are not centered in an unlabeled region."""
    if unlabeled is None:
        return True
    y = np.minimum(np.arange(rows) * stride * original[0] // resized[0], original[0] - 1)
    x = np.minimum(np.arange(columns) * stride * original[1] // resized[1], original[1] - 1)
    return ~unlabeled[np.ix_(y, x)]


def _any_covers(rows: Bool[np.ndarray, "m h"], columns: Bool[np.ndarray, "m w"]) -> Bool[np.ndarray, "h w"]:
    """Returns the union of m rectangles, given by rows and columns, as a product instead of m × h × w booleans."""
    return rows.T.astype(np.float32) @ columns.astype(np.float32) > 0


def sample(labels: WindowLabels, rng: np.random.Generator, spec: LabelSpec) -> WindowSample:
    """Samples windows to train on, uniformly without replacement; fewer if there are fewer."""

    def draw(candidates: Bool[np.ndarray, "N"], count: int) -> Int[np.ndarray, "k"]:
        numbers = np.flatnonzero(candidates)
        return rng.choice(numbers, min(count, len(numbers)), replace=False)

    drawn = draw(labels.positive, max(spec.score_positives, spec.mask_positives))
    positives, masks = drawn[: spec.score_positives], drawn[: spec.mask_positives]
    negatives = draw(labels.hard_negative, spec.score_negatives)
    others = draw(labels.background, spec.random_negatives)
    scored = np.concatenate([positives, negatives, others])
    S, P = spec.score_positives + spec.score_negatives + spec.random_negatives, spec.mask_positives
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
