"""Augments and resizes samples: pure functions of samples and a random generator.

Boxes and masks of a `Sample` are in pixels of its image; only resizing, the last operation, changes the scale of the
image (docs/network.md §1, §3). The paper uses only `random_flip`.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from fastmask_jax.data.targets import InstanceMask
from fastmask_jax.geometry import resized_crop, resized_size
from fastmask_jax.masks.drawing import GRAY

FLIP_PROBABILITY = 0.5
LEAST_VISIBLE = 0.3  # minimum visible fraction of an object; objects below it are dropped
COPY_SCALES = (0.5, 1.5)


@dataclass(frozen=True)
class Sample:
    """An image with its objects, in pixels of this image."""

    image: UInt8[np.ndarray, "H W 3"]  # RGB
    boxes: Int64[np.ndarray, "n 4"]  # (x, y, width, height)
    crowd: Bool[np.ndarray, "n"]
    masks: tuple[InstanceMask, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.image.shape[:2]


def mirror(sample: Sample) -> Sample:
    """Flips a sample left to right, exactly: flipping twice restores it."""
    boxes = sample.boxes.copy()
    boxes[:, 0] = sample.size[1] - boxes[:, 0] - boxes[:, 2]
    return replace(
        sample, image=cv2.flip(sample.image, 1), boxes=boxes, masks=tuple(mask.mirror() for mask in sample.masks)
    )


def random_flip(sample: Sample, rng: np.random.Generator) -> Sample:
    """Flips a sample left to right with probability ½."""
    return mirror(sample) if rng.random() < FLIP_PROBABILITY else sample


def cut(sample: Sample, x: int, y: int, width: int, height: int) -> Sample:
    """Crops a sample, with the objects whose visible fraction is at least 0.3; their boxes are cropped, too.

    Crowds are kept if their box overlaps the crop.
    """
    left, top = sample.boxes[:, 0] - x, sample.boxes[:, 1] - y
    right, bottom = left + sample.boxes[:, 2], top + sample.boxes[:, 3]
    whole = (left >= 0) & (top >= 0) & (right <= width) & (bottom <= height)
    touched = (right > 0) & (bottom > 0) & (left < width) & (top < height)
    boxes = np.stack([left, top, right - left, bottom - top], axis=1)
    kept = whole.copy()
    for n in np.flatnonzero(touched & ~whole):
        if sample.crowd[n]:
            x1, y1, x2, y2 = max(left[n], 0), max(top[n], 0), min(right[n], width), min(bottom[n], height)
            boxes[n], kept[n] = (x1, y1, x2 - x1, y2 - y1), True
            continue
        before = sample.masks[n].crop()[2].sum(dtype=np.int64)
        x1, y1, pixels = sample.masks[n].cut(x, y, width, height).crop()
        boxes[n] = (x1, y1, *pixels.shape[::-1])
        kept[n] = pixels.sum(dtype=np.int64) >= max(LEAST_VISIBLE * before, 1)
    numbers = np.flatnonzero(kept)
    return Sample(
        image=np.ascontiguousarray(sample.image[y : y + height, x : x + width]),
        boxes=boxes[numbers],
        crowd=sample.crowd[numbers],
        masks=tuple(sample.masks[n].cut(x, y, width, height) for n in numbers),
    )


def random_crop(
    sample: Sample, long_edge: int, room: tuple[int, int], rng: np.random.Generator
) -> tuple[Sample, tuple[int, int]]:
    """Returns (the sample or a crop of it, its resized (height, width)) for a long edge.

    The whole sample if it fits into `room`, (height, width) in resized pixels; otherwise a random crop that fills it.
    """
    longest = max(sample.size)
    height, width = (
        side if whole <= most else min(side, max(most * longest // long_edge, 1))
        for side, whole, most in zip(sample.size, resized_size(*sample.size, long_edge), room, strict=True)
    )
    if (height, width) != sample.size:
        y, x = (int(rng.integers(side - part + 1)) for side, part in zip(sample.size, (height, width), strict=True))
        sample = cut(sample, x, y, width, height)
    return sample, resized_crop(height, width, long_edge, longest)


def color_jitter(sample: Sample, strength: float, rng: np.random.Generator) -> Sample:
    """Changes brightness, contrast and saturation by factors within 1 ± `strength`, color balance by half."""
    if strength == 0:
        return sample
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)
    balance = rng.uniform(1 - strength / 2, 1 + strength / 2, 3).astype(np.float32)
    # All changes are affine in a pixel's color: one matrix and one shift.
    gray = np.tile(GRAY, (3, 1))
    matrix = brightness * balance[:, None] * (saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * gray)
    mean = matrix @ sample.image[::8, ::8].reshape(-1, 3).mean(axis=0, dtype=np.float32)
    matrix = np.concatenate([contrast * matrix, ((1 - contrast) * mean)[:, None]], axis=1)
    return replace(sample, image=cv2.transform(sample.image, matrix))


def copy_paste(sample: Sample, giver: Sample, count: int, rng: np.random.Generator) -> Sample:
    """Pastes `count` objects of another sample, or all if it has fewer, at random positions and sizes.

    Masks lose their occluded pixels; objects whose visible fraction is below 0.3 are dropped. Source: Ghiasi et
    al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation", CVPR 2021.
    """
    candidates = np.flatnonzero(~giver.crowd & (giver.boxes[:, 2:] > 0).all(axis=1))
    chosen = rng.choice(candidates, min(count, len(candidates)), replace=False)
    height, width = sample.size
    image, covered = sample.image, np.zeros((height, width), bool)
    copies: list[tuple[int, int, np.ndarray]] = []  # x, y, pixels
    for n in chosen:
        gx, gy, pixels = giver.masks[n].crop()
        scale = rng.uniform(*COPY_SCALES)
        scale = min(scale, height / pixels.shape[0], width / pixels.shape[1]) if pixels.size else 0.0
        h, w = int(pixels.shape[0] * scale), int(pixels.shape[1] * scale)
        if min(h, w) < 1:
            continue
        look = giver.image[gy : gy + pixels.shape[0], gx : gx + pixels.shape[1]]
        look, shape = (cv2.resize(one, (w, h), interpolation=cv2.INTER_AREA) for one in (look, pixels * np.uint8(255)))
        y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        shape = shape >= 128
        if not shape.any():
            continue
        image = image.copy() if image is sample.image else image
        cv2.copyTo(look, shape.view(np.uint8), image[y : y + h, x : x + w])
        for other in copies:
            _clear(other, x, y, shape)
        copies.append((x, y, shape))
        covered[y : y + h, x : x + w] |= shape
    if not copies:
        return sample
    masks, boxes, crowd = [], [], []
    for n, mask in enumerate(sample.masks):
        x, y, w, h = sample.boxes[n]
        if sample.crowd[n] or not covered[max(y, 0) : y + h, max(x, 0) : x + w].any():
            masks.append(mask), boxes.append(sample.boxes[n]), crowd.append(sample.crowd[n])
            continue
        x, y, pixels = mask.crop()
        left = (pixels > 0) & ~covered[y : y + pixels.shape[0], x : x + pixels.shape[1]]
        if left.sum() >= LEAST_VISIBLE * pixels.sum(dtype=np.int64):
            copies.append((x, y, left))
    for x, y, left in copies:
        if left.any():
            mask = InstanceMask.of_pixels(x, y, left.view(np.uint8), sample.size)
            x, y, pixels = mask.crop()
            masks.append(mask), boxes.append((x, y, *pixels.shape[::-1])), crowd.append(False)
    return Sample(image, np.array(boxes, np.int64).reshape(-1, 4), np.array(crowd, bool), tuple(masks))


def _clear(under: tuple[int, int, Bool[np.ndarray, "_h _w"]], x: int, y: int, over: Bool[np.ndarray, "h w"]) -> None:
    """Removes from a mask at its corner (x, y), in place, the pixels that another mask at (x, y) covers."""
    left, top, pixels = under
    x1, x2 = max(left, x), min(left + pixels.shape[1], x + over.shape[1])
    y1, y2 = max(top, y), min(top + pixels.shape[0], y + over.shape[0])
    if x1 < x2 and y1 < y2:
        pixels[y1 - top : y2 - top, x1 - left : x2 - left] &= ~over[y1 - y : y2 - y, x1 - x : x2 - x]


def crowd_region(sample: Sample) -> Bool[np.ndarray, "H W"] | None:
    """Returns the pixels of crowds, whose objects are not labeled individually; None if there are no crowds."""
    if not sample.crowd.any():
        return None
    region = np.zeros(sample.size, bool)
    for n in np.flatnonzero(sample.crowd):
        x, y, pixels = sample.masks[n].crop()
        region[y : y + pixels.shape[0], x : x + pixels.shape[1]] |= pixels.astype(bool)
    return region


def resize_into(image: UInt8[np.ndarray, "H W 3"], place: UInt8[np.ndarray, "h w 3"]) -> None:
    """Resizes the image into `place`: bilinear, on bytes, as in training."""
    cv2.resize(image, place.shape[1::-1], dst=place, interpolation=cv2.INTER_LINEAR)


def resize_for_inference(image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> Float32[np.ndarray, "h w 3"]:
    """Resizes an image to (height, width) for inference: bilinear, in float32, not rounded (docs/network.md §3)."""
    return cv2.resize(image.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
