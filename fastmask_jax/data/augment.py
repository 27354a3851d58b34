"""From a record to what the network sees: pure functions (sample, rng) → sample, and resizing (spec sections 1, 3).

Boxes and masks of a `Sample` stay in the pixels of its image; only resizing changes the image's scale, at the end of
the way, so that a further augmentation (colour, crops, copies) is one more function of the same form before it.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from fastmask_jax.data.targets import InstanceMask

FLIP_PROBABILITY = 0.5


@dataclass(frozen=True)
class Sample:
    """An image with its objects, all in original pixels."""

    image: UInt8[np.ndarray, "H W 3"]  # RGB
    boxes: Int64[np.ndarray, "n 4"]  # (x, y, width, height)
    crowd: Bool[np.ndarray, "n"]
    masks: tuple[InstanceMask, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.image.shape[:2]


def mirror(sample: Sample) -> Sample:
    """The sample flipped left to right, exactly: doing it twice gives the sample back."""
    boxes = sample.boxes.copy()
    boxes[:, 0] = sample.size[1] - boxes[:, 0] - boxes[:, 2]
    return replace(
        sample, image=cv2.flip(sample.image, 1), boxes=boxes, masks=tuple(mask.mirror() for mask in sample.masks)
    )


def random_flip(sample: Sample, rng: np.random.Generator) -> Sample:
    """The sample, or with probability ½ its mirror image."""
    return mirror(sample) if rng.random() < FLIP_PROBABILITY else sample


def resize_into(image: UInt8[np.ndarray, "H W 3"], place: UInt8[np.ndarray, "h w 3"]) -> None:
    """Write the image, at the size of `place`, into it: bilinear, on bytes, as in training."""
    cv2.resize(image, place.shape[1::-1], dst=place, interpolation=cv2.INTER_LINEAR)


def resize_in_use(image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> Float32[np.ndarray, "h w 3"]:
    """The image at (height, width) in use: bilinear, on float32, not rounded (spec section 3)."""
    return cv2.resize(image.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
