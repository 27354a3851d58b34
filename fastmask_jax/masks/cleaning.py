"""Removes small parts and fills small holes of masks."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool
from pycocotools import mask as coco_mask

from fastmask_jax.errors import InvalidInput
from fastmask_jax.masks.rle_regions import bitmap, place


def clean(rle: Mapping[str, Any], min_part: float | int = 0, fill_holes: float | int = 0) -> dict[str, Any]:
    """Removes small parts of a mask and fills small holes; the largest part always stays.

    Parts are 8-connected, holes 4-connected. Holes are filled first. Background at the border of the image is not a
    hole.

    Args:
      rle: compressed RLE, with "counts" as text.
      min_part: parts with fewer pixels of the image are removed; below 1, a share of the mask's pixels.
      fill_holes: holes with at most this many pixels of the image are filled; below 1, a share of the mask's pixels.

    Returns:
      Compressed RLE of the same size, with "counts" as text.

    Raises:
      ValueError: a negative number.
    """
    for name, value in (("min_part", min_part), ("fill_holes", fill_holes)):
        if not value >= 0:
            raise InvalidInput(f"{name}={value!r}: expected a number of pixels, or a share of the mask below 1")
    x, y, width, height = coco_mask.toBbox(rle).astype(int).tolist()
    if not width:
        return dict(rle)
    mask = bitmap(rle, (x, y, x + width, y + height))  # pixels outside the box are neither parts nor holes
    if fill_holes:
        mask = _filled(mask, fill_holes * np.count_nonzero(mask) if fill_holes < 1 else fill_holes)
    if min_part:
        mask = _without_small_parts(mask, min_part * np.count_nonzero(mask) if min_part < 1 else min_part)
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return place([encoded], (x, y), tuple(rle["size"]))[0]


def _filled(mask: Bool[np.ndarray, "H W"], most: float | int) -> Bool[np.ndarray, "H W"]:
    padded = np.pad(~mask, 1, constant_values=True).view(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(padded, connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] <= most
    small[[0, labels[0, 0]]] = False  # the mask itself, and the background outside
    return mask | small[labels[1:-1, 1:-1]]


def _without_small_parts(mask: Bool[np.ndarray, "H W"], least: float | int) -> Bool[np.ndarray, "H W"]:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    kept = areas >= least
    kept[1 + np.argmax(areas[1:])] = True
    kept[0] = False
    return kept[labels]
