"""Converts overlapping masks to one label per pixel, and label maps to PNG images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int32, Integer
from PIL import Image

from fastmask_jax.errors import InvalidInput
from fastmask_jax.masks.drawing import distinct_colors
from fastmask_jax.masks.rle_regions import runs_of

COLORS = 255  # labels in an 8-bit file; 0 means no label
_DEEPEST = (1 << 16) - 1


def label_map(
    rles: Sequence[Mapping[str, Any]], scores: Float[np.ndarray, "n"], size: tuple[int, int]
) -> Int32[np.ndarray, "H W"]:
    """Returns a label for every pixel: k + 1 for mask k, 0 for none.

    Where masks overlap, the one with the highest score gets the pixel; among equal scores, the one with the smallest
    area; among equal areas, the first one.

    Args:
      rles: compressed RLE of the image's size.
      scores: scores of the masks.
      size: (H, W) of the image.
    """
    runs = runs_of(rles, size)
    edges, splits = runs.edges.reshape(-1, 2), runs.splits // 2
    covered = np.concatenate([[0], np.cumsum(edges[:, 1] - edges[:, 0])])
    areas = np.diff(covered[splits])
    flat = np.zeros(size[0] * size[1], np.int32)
    order = np.lexsort((np.arange(len(rles)), areas, -scores))
    for k in order[::-1].tolist():
        for begin, end in edges[splits[k] : splits[k + 1]].tolist():
            flat[begin:end] = k + 1
    return np.ascontiguousarray(flat.reshape(size[1], size[0]).T)


def label_picture(labels: Integer[np.ndarray, "H W"]) -> Image.Image:
    """Converts a label map to an image whose pixel values are the labels.

    Up to 255 labels give an 8-bit palette image: label 0 is black, label k has color k − 1 of
    `drawing.distinct_colors`. More labels give a 16-bit gray image.

    Raises:
      ValueError: a label below 0 or above 65535.
    """
    least, most = int(labels.min(initial=0)), int(labels.max(initial=0))
    if least < 0 or most > _DEEPEST:
        raise InvalidInput(f"labels from {least} to {most}: a PNG file holds labels from 0 to {_DEEPEST}")
    if most > COLORS:
        return Image.fromarray(labels.astype(np.uint16))
    picture = Image.fromarray(labels.astype(np.uint8))
    palette = np.concatenate([np.zeros((1, 3), np.uint8), distinct_colors(COLORS)])
    picture.putpalette(palette.tobytes())  # converts mode L to P and keeps the pixel values
    return picture
