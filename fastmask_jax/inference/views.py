"""Creates the views of an image that the network sees: each scale, and optionally its mirror image."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from fastmask_jax.data.augment import resize_for_inference
from fastmask_jax.geometry import MULTIPLE, resized_size, smallest_bucket

PAD = 64  # padded shapes outside the buckets are rounded up to multiples of this, so that few shapes are compiled


@dataclass(frozen=True)
class View:
    """One resized copy of an image.

    Attributes:
      image: resized RGB, 0 to 255.
      bucket: padded (height, width).
      long_edge: the scale, in pixels.
      mirrored: whether the image is flipped left to right.
    """

    image: Float32[np.ndarray, "h w 3"]
    bucket: tuple[int, int]
    long_edge: int
    mirrored: bool


@dataclass(frozen=True)
class Buckets:
    """Padded shapes of a config's `evaluation` section.

    Attributes:
      shapes: (height, width) pairs for images of `long_edge`; other scales have the same shapes, scaled.
      long_edge: pixels.
    """

    shapes: Sequence[tuple[int, int]]
    long_edge: int

    def choose(self, original: tuple[int, int], long_edge: int) -> tuple[int, int]:
        """Returns the smallest shape that fits an image of (height, width) pixels resized to `long_edge`.

        If none does, the shape of the image is rounded up to multiples of 64 pixels.
        """
        height, width = resized_size(*original, long_edge)
        scaled = [tuple(_scaled(side, long_edge, self.long_edge) for side in shape) for shape in self.shapes]
        number = smallest_bucket(height, width, scaled)
        if number is not None:
            return scaled[number]
        return -(-height // PAD) * PAD, -(-width // PAD) * PAD


def _scaled(side: int, numerator: int, denominator: int) -> int:
    return -(-side * numerator // (denominator * MULTIPLE)) * MULTIPLE


def views_of(
    pixels: UInt8[np.ndarray, "_h _w 3"],
    buckets: Buckets,
    long_edges: Sequence[int],
    flip: bool,
    original: tuple[int, int] | None = None,
) -> list[View]:
    """Returns a view for each scale, followed by its mirror image with `flip`.

    Args:
      pixels: pixels of the image, or of a reduced copy.
      buckets: padded shapes to choose from.
      long_edges: the scales.
      flip: whether to add mirror images.
      original: (H, W) of the image; None: the size of `pixels`.
    """
    original = original or pixels.shape[:2]
    views = []
    for long_edge in long_edges:
        image = resize_for_inference(pixels, resized_size(*original, long_edge))
        view = View(image, buckets.choose(original, long_edge), long_edge, False)
        views.append(view)
        if flip:
            views.append(View(cv2.flip(image, 1), view.bucket, long_edge, True))
    return views
