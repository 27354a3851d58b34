"""A substitute for the network, without weights: proposes the brightly colored parts of an image."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from fastmask_jax.inference.generator import ProposalGenerator
from fastmask_jax.inference.image_input import ImageRead, read_with_orientation
from fastmask_jax.inference.options import ProposeOptions
from fastmask_jax.inference.proposals import Proposals

COLORS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}


def picture(size: tuple[int, int], **squares: tuple[int, int, int]) -> np.ndarray:
    """Returns a gray RGB image with a square (x, y, side) in each of the named colors."""
    image = np.full((*size, 3), 90, np.uint8)
    for name, (x, y, side) in squares.items():
        image[y : y + side, x : x + side] = COLORS[name]
    return image


class BrightGenerator(ProposalGenerator):
    """Returns one proposal for each of `COLORS` in the image, largest first."""

    def __init__(self, before: Callable[[int], None] = lambda number: None) -> None:
        self._before = before  # called with the number of each image, from 0, before its proposals are returned

    def propose_iter(
        self,
        images: Iterable[Any],
        options: ProposeOptions | None = None,
        *,
        on_problem: Callable[[str], None] | None = None,
        **changes: Any,
    ) -> Iterator[Proposals | None]:
        for number, image in enumerate(images):
            self._before(number)
            try:
                yield _bright(read_with_orientation(image))
            except (OSError, ValueError) as error:
                on_problem(str(error))
                yield None


def _bright(read: ImageRead) -> Proposals:
    image = read.pixels
    distance = [np.abs(image.astype(int) - color).max(-1) for color in COLORS.values()]
    masks = sorted((d < 60 for d in distance if (d < 60).any()), key=np.sum, reverse=True)
    rles = [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]
    boxes = np.array([coco_mask.toBbox(rle) for rle in rles], np.float32).reshape(-1, 4)
    n = len(masks)
    return Proposals(
        scores=np.linspace(0.9, 0.5, n, dtype=np.float32),
        boxes=boxes,
        rles=[{"size": list(image.shape[:2]), "counts": rle["counts"].decode()} for rle in rles],
        windows=np.zeros((n, 3), np.int32),
        long_edges=np.full(n, 96, np.int32),
        mirrored=np.zeros(n, bool),
        window_boxes=np.concatenate([boxes[:, :2] - 10, boxes[:, :2] + 50], 1).astype(np.int64),
        attention=np.full((n, 10, 10), 0.5, np.float32),
        image=image,
        orientation=read.orientation,
    )
