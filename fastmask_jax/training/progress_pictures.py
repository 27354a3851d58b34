"""Draws training pictures of fixed images: targets and predictions.

Labels are drawn from the batch that the step receives, so a mask shifted by half a pixel, or mirrored, is visible.
Small images are upscaled by integers. Letters as in docs/design.md; n labeled windows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from pycocotools import mask as coco_mask

from fastmask_jax.data.batches import TrainBatch
from fastmask_jax.geometry import FINE_MASK, WINDOW, window_boxes
from fastmask_jax.masks.drawing import (
    Box,
    captioned,
    contour,
    crop,
    distinct_colors,
    dots,
    frame,
    grid,
    heat,
    overlay,
)
from fastmask_jax.masks.paste import upsample
from fastmask_jax.masks.rle import masks_to_results
from fastmask_jax.masks.suppression import SHOWN_IOU, suppress
from fastmask_jax.models.fastmask import Decoded, FastMask, Sampled

IMAGES = 4  # number of drawn images of the batch
OBJECTS = 6  # number of windows drawn large
PROPOSALS = 12
DECODED = 100
TILE = FINE_MASK  # side of a tile in pixels: one per cell of a mask target
SHOWN_SIDE = 700  # images are enlarged to about this long edge
WHOLE = (0, 0, TILE, TILE)
POSITIVE, NEGATIVE = (80, 255, 120), (255, 70, 70)


class Answers(NamedTuple):
    """Predictions for one image, as NumPy arrays."""

    mask_logits: Float[np.ndarray, "P 40 40"]  # of the windows with mask targets
    attention: Float[np.ndarray, "P 10 10"]  # probabilities for the same windows
    proposals: Decoded  # proposals of the image, without a batch axis


class TrainingPictures:
    """Draws labels, attention and proposals of the same few images during training.

    The program is compiled once and freed with this object.
    """

    def __init__(self, model: FastMask, batch: TrainBatch, threshold: float) -> None:
        """
        Args:
          model: the network.
          batch: a batch, whose first images are drawn.
          threshold: mask threshold of the proposals.
        """
        self._batch, self._threshold, self._strides = batch, threshold, model.strides

        def answer(variables: Any, image: jax.Array, size: jax.Array, windows: jax.Array) -> tuple[Sampled, Decoded]:
            image = image.astype(np.float32)
            sampled = model.apply(variables, image, size, windows[:, :1], windows)
            return sampled._replace(levels=(), objectness_attention=()), model.apply(
                variables, image, size, DECODED, method="propose"
            )

        self._answer = jax.jit(answer)

    def __call__(self, variables: Any) -> dict[str, UInt8[np.ndarray, "_H _W 3"]]:
        """Returns the pictures of these weights, by tag ("labels/<image id>")."""
        batch, strides = self._batch, self._strides
        variables = jax.device_put(variables, jax.local_devices()[0])
        pictures = {}
        for row in range(min(IMAGES, len(batch.image))):
            answers = self._ask(variables, row)
            height, width = batch.size[row]
            name = int(batch.image_id[row])
            pictures[f"labels/{name}"] = label_picture(batch, row, strides)
            pictures[f"attention/{name}"] = attention_picture(
                batch, row, strides, answers.attention, answers.mask_logits
            )
            pictures[f"proposals/{name}"] = prediction_picture(
                batch.image[row, :height, :width], answers.proposals, strides, self._threshold
            )
        return pictures

    def _ask(self, variables: Any, row: int) -> Answers:
        """Returns predictions in inference mode (stored statistics, no dropout) for one image."""
        one, batch = slice(row, row + 1), self._batch
        answer = self._answer(variables, batch.image[one], batch.size[one], batch.mask_windows[one])
        sampled, decoded = jax.device_get(answer)
        return Answers(sampled.mask_logits[0], _sigmoid(sampled.attention[0]), Decoded(*(x[0] for x in decoded)))


def label_picture(batch: TrainBatch, row: int, strides: Sequence[int]) -> UInt8[np.ndarray, "_H _W 3"]:
    """Draws the targets of one image: masks and boxes at the positions of their windows, and the windows.

    On the image: the contour of every window's mask target (one color per object; contours of one object must
    coincide), the box of its attention target, and the centers of sampled windows (green discs: positive, red crosses:
    hard negative). Below or next to it, one window for each of a few objects with its targets, cell by cell.
    """
    taught = _taught(batch, row, strides)
    owner = objects_of(taught.masks)
    firsts = _firsts(owner)
    colors = distinct_colors(len(firsts))
    panel = overlay(taught.image, taught.masks[firsts], opacity=0.3)
    for mask, number in zip(taught.masks, owner, strict=True):
        panel = contour(panel, mask, colors[number])
    for number, p in enumerate(firsts):
        box = _box(batch.attention_targets[row, p], taught.window_boxes[p])
        panel = frame(panel, box, colors[number], dashed=True)
    used, labels = batch.score_weights[row] > 0, batch.score_labels[row]
    centers = window_boxes(batch.score_windows[row], taught.strides).reshape(-1, 2, 2).sum(1) // 2
    panel = dots(panel, centers[used & (labels == 0)], NEGATIVE, cross=True)
    panel = dots(panel, centers[used & (labels == 1)], POSITIVE)
    panel = captioned(
        panel,
        f"image {batch.image_id[row]}: {len(owner)} windows teach the masks of {len(firsts)} objects; objectness from "
        f"{np.sum(used & (labels == 1))} positive (discs) and {np.sum(used & (labels == 0))} hard negative (crosses)",
    )
    tiles, captions = [], []
    for number, p in enumerate(firsts[:OBJECTS]):
        tile = crop(taught.image, taught.window_boxes[p], TILE)
        tile = contour(tile, batch.mask_targets[row, p].astype(bool), colors[number])
        tiles.append(frame(tile, _box(batch.attention_targets[row, p], WHOLE), colors[number], dashed=True))
        captions.append(_name(batch.mask_windows[row, p], strides))
    return _with_tiles(panel, tiles, captions)


def attention_picture(
    batch: TrainBatch,
    row: int,
    strides: Sequence[int],
    attention: Float[np.ndarray, "P 10 10"],
    mask_logits: Float[np.ndarray, "P 40 40"],
) -> UInt8[np.ndarray, "_H _W 3"]:
    """Draws target and predicted attention and mask for one window of each of a few objects, one per row.

    Args:
      attention: probabilities for the windows `batch.mask_windows[row]`.
      mask_logits: logits for the same windows.
    """
    seen = _taught(batch, row, strides)
    firsts = _firsts(objects_of(seen.masks))[:OBJECTS]
    if not len(firsts):
        return captioned(seen.image, f"image {batch.image_id[row]}: no window to be taught")
    color = distinct_colors(1)[0]
    tiles, captions = [], []
    for p, probability in zip(firsts, _sigmoid(upsample(mask_logits[firsts])), strict=True):
        tile = crop(seen.image, seen.window_boxes[p], TILE)
        taught, said = batch.mask_targets[row, p].astype(bool), probability >= 0.5
        iou = (taught & said).sum() / max((taught | said).sum(), 1)
        box = _box(batch.attention_targets[row, p], WHOLE)
        tiles += [
            tile,
            heat(tile, batch.attention_targets[row, p].astype(np.float32), WHOLE),
            frame(heat(tile, attention[p], WHOLE), box, color, dashed=True),
            overlay(tile, taught[None]),
            overlay(heat(tile, probability, WHOLE), said[None], opacity=0.0),
        ]
        captions += [
            _name(batch.mask_windows[row, p], strides),
            "attention taught",
            "attention",
            "mask taught",
            f"mask, IoU {iou:.2f}",
        ]
    return grid(tiles, captions, columns=5)


def prediction_picture(
    image: UInt8[np.ndarray, "h w 3"],
    decoded: Decoded,
    strides: Sequence[int],
    threshold: float,
    count: int = PROPOSALS,
) -> UInt8[np.ndarray, "_H _W 3"]:
    """Draws the top proposals of an image after suppression, and the windows of a few with their attention.

    Args:
      image: resized, without padding.
      decoded: for this image: scores [K], windows [K, 3], mask_logits [K, 40, 40], attention [K, 10, 10].
      strides: strides of the levels.
      threshold: minimum probability for a mask pixel.
      count: number of proposals shown.
    """
    resized = image.shape[:2]
    image, large = _enlarged(image, strides)
    proposals = masks_to_results(
        decoded.scores,
        decoded.windows,
        decoded.mask_logits,
        strides=strides,
        resized=resized,
        original=image.shape[:2],
        threshold=threshold,
    )
    differing = suppress(proposals, SHOWN_IOU)
    best = differing[:count]
    colors = distinct_colors(len(best))
    panel = overlay(
        image, [proposals.segmentations[n] for n in best], [f"{proposals.scores[n]:.2f}" for n in best], colors
    )
    panel = captioned(
        panel,
        f"best {len(best)} of {len(proposals.scores)} proposals; {len(differing)} differ (mask IoU <= {SHOWN_IOU})",
    )
    shown = proposals.kept[best[:OBJECTS]]  # indices of windows
    boxes = window_boxes(decoded.windows[shown], large)
    masks = _sigmoid(upsample(decoded.mask_logits[shown])) >= threshold
    tiles, captions = [], []
    for k, box, mask, color in zip(shown, boxes, masks, colors, strict=False):
        tile = crop(image, box, TILE)
        hot = heat(tile, decoded.attention[k], WHOLE)
        tiles.append(np.concatenate([overlay(tile, mask[None], colors=color[None]), hot], axis=1))
        captions.append(f"{decoded.scores[k]:.2f}  {_name(decoded.windows[k], strides)}")
    return _with_tiles(panel, tiles, captions)


def objects_of(masks: Bool[np.ndarray, "n h w"]) -> Int[np.ndarray, "n"]:
    """Assigns object numbers 0, 1, 2 ... to masks: masks of an object have an IoU ≥ ½ with its first."""
    owner, firsts = np.zeros(len(masks), np.int64), []
    if not len(masks):
        return owner
    rles = coco_mask.encode(np.asfortranarray(np.moveaxis(masks, 0, -1).view(np.uint8)))
    iou = coco_mask.iou(rles, rles, [0] * len(rles))
    for n in range(len(masks)):
        mine = np.flatnonzero(iou[n, firsts] >= 0.5)
        if not len(mine):
            firsts.append(n)
        owner[n] = mine[0] if len(mine) else len(firsts) - 1
    return owner


def lay_back(target: UInt8[np.ndarray, "160 160"], box: Box, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """Resizes a window's mask target to its box in an image of `size` (height, width); bilinear, threshold ½."""
    x1, y1, x2, y2 = (int(edge) for edge in box)
    cells = cv2.resize(target.astype(np.float32), (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR) >= 0.5
    result = np.zeros(size, bool)
    top, left, bottom, right = max(y1, 0), max(x1, 0), min(y2, size[0]), min(x2, size[1])
    result[top:bottom, left:right] = cells[top - y1 : bottom - y1, left - x1 : right - x1]
    return result


class _Taught(NamedTuple):
    image: UInt8[np.ndarray, "h w 3"]  # without padding, enlarged
    strides: tuple[int, ...]  # in its pixels
    window_boxes: Int[np.ndarray, "n 4"]  # boxes of the windows with mask targets, in its pixels
    masks: Bool[np.ndarray, "n h w"]  # their mask targets, resized to the image


def _taught(batch: TrainBatch, row: int, strides: Sequence[int]) -> _Taught:
    height, width = batch.size[row]
    image, large = _enlarged(batch.image[row, :height, :width], strides)
    count = int(np.sum(batch.mask_weights[row] > 0))  # padding rows come last
    boxes = window_boxes(batch.mask_windows[row, :count], large)
    masks = np.zeros((count, *image.shape[:2]), bool)
    for p, box in enumerate(boxes):
        masks[p] = lay_back(batch.mask_targets[row, p], box, image.shape[:2])
    return _Taught(image, large, boxes, masks)


def _enlarged(
    image: UInt8[np.ndarray, "h w 3"], strides: Sequence[int]
) -> tuple[UInt8[np.ndarray, "_h _w 3"], tuple[int, ...]]:
    """Upscales a small image by repeating pixels; returns it with the strides in its pixels."""
    factor = max(1, round(SHOWN_SIDE / max(image.shape[:2])))
    return image.repeat(factor, axis=0).repeat(factor, axis=1), tuple(factor * stride for stride in strides)


def _firsts(owner: Int[np.ndarray, "n"]) -> Int[np.ndarray, "k"]:
    return np.unique(owner, return_index=True)[1]


def _box(cells: UInt8[np.ndarray, "10 10"], box: Box) -> tuple[int, int, int, int]:
    """Returns the edges of the rectangle of marked cells in a window, in pixels of its box."""
    x1, y1, x2, _ = (int(edge) for edge in box)
    side = (x2 - x1) / WINDOW
    rows, columns = np.flatnonzero(cells.any(1)), np.flatnonzero(cells.any(0))
    if not len(rows):
        return x1, y1, x1, y1
    return tuple(
        round(start + edge * side)
        for start, edge in ((x1, columns[0]), (y1, rows[0]), (x1, columns[-1] + 1), (y1, rows[-1] + 1))
    )


def _with_tiles(panel: np.ndarray, tiles: list[np.ndarray], captions: list[str]) -> UInt8[np.ndarray, "_H _W 3"]:
    """Arranges tiles in rows below a landscape picture, or in columns next to a portrait one."""
    if not tiles:
        return panel
    lying = panel.shape[1] >= panel.shape[0]
    across = -(-panel.shape[1] // (tiles[0].shape[1] + 6))
    down = max(panel.shape[0] // (tiles[0].shape[0] + 30), 1)
    return grid([panel, grid(tiles, captions, across if lying else -(-len(tiles) // down))], columns=1 if lying else 2)


def _name(window: Int[np.ndarray, "3"], strides: Sequence[int]) -> str:
    return f"stride {strides[window[0]]}, row {window[1]}, column {window[2]}"


def _sigmoid(logits: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return 0.5 + 0.5 * np.tanh(0.5 * logits)  # cannot overflow
