"""Converts overlapping masks to one label per pixel, and label maps to PNG images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int32, Int64, Integer
from PIL import Image

from fastmask_jax.errors import InvalidInput
from fastmask_jax.masks.drawing import distinct_colors
from fastmask_jax.masks.rle import decode_counts

COLORS = 255  # labels of an 8-bit file; 0 is no label
_DEEPEST = (1 << 16) - 1


def label_map(
    rles: Sequence[Mapping[str, Any]], scores: Float[np.ndarray, "n"], size: tuple[int, int]
) -> Int32[np.ndarray, "H W"]:
    """Gives every pixel the label k + 1 of one mask k that covers it, or 0.

    Of several masks, the one of the highest score gets the pixel; of equal scores, the one of the smallest area; of
    equal areas, the first.

    Args:
      rles: compressed RLE of the image's size.
      scores: of the masks.
      size: (H, W) of the image.
    """
    edges, owner, areas = _runs(rles)
    flat = np.zeros(size[0] * size[1], np.int32)
    order = np.lexsort((np.arange(len(rles)), areas, -scores))
    splits = np.searchsorted(owner, np.arange(len(rles) + 1))
    for k in order[::-1].tolist():
        for begin, end in edges[splits[k] : splits[k + 1]].tolist():
            flat[begin:end] = k + 1
    return np.ascontiguousarray(flat.reshape(size[1], size[0]).T)


def label_picture(labels: Integer[np.ndarray, "H W"]) -> Image.Image:
    """Makes an image of a label map that keeps the labels as its pixel values.

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
    picture.putpalette(palette.tobytes())  # turns mode L into P, and keeps the pixel values
    return picture


def _runs(
    rles: Sequence[Mapping[str, Any]],
) -> tuple[Int64[np.ndarray, "N 2"], Int64[np.ndarray, "N"], Int64[np.ndarray, "n"]]:
    """Returns (begin, end) of the runs of all masks in column order; the mask of each run; the area of each mask."""
    decoded = decode_counts([rle["counts"].encode() for rle in rles])
    counts, owner = decoded.counts, decoded.owner
    first = np.searchsorted(owner, np.arange(len(rles)))
    ends = np.cumsum(counts)
    before = np.concatenate([[0], ends])[first]
    ends -= before[owner]
    filled = (np.arange(len(counts)) - first[owner]) % 2 == 1
    edges = np.stack([ends - counts, ends], 1)[filled]
    areas = np.bincount(owner[filled], counts[filled], minlength=len(rles)).astype(np.int64)
    return edges, owner[filled], areas
