"""Mask and attention targets compared with plain float64 loops, SciPy's bilinear sampling, and hand-computed cases."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from scipy import ndimage

from fastmask_jax.data.targets import InstanceMask, draw_attention, draw_masks
from fastmask_jax.geometry import window_boxes

SHARP = 1e-3  # cells this close to ½ may round to either side in float32


def mask_targets(windows, *arguments):
    targets = np.zeros((len(windows), 160, 160), np.uint8)
    draw_masks(targets, windows, *arguments)
    return targets


def attention_targets(windows, *arguments):
    targets = np.zeros((len(windows), 10, 10), np.uint8)
    draw_attention(targets, windows, *arguments)
    return targets


def instance(pixels):
    return InstanceMask.of_rles([coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))])[0]


def blobs(height, width, seed):
    """Returns a random mask with curved outlines, holes and several parts."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((height, width)), max(height, 8) / 16)
    return noise > 0


def cell_centers(window, original, resized, strides):
    """Returns the centers of the 160×160 cells, (y, x) in original pixels, and the sides of the cells."""
    x1, y1, x2, y2 = window_boxes(np.array([window], np.int32), strides)[0].tolist()
    scale_y, scale_x = original[0] / resized[0], original[1] / resized[1]
    ys = [(y1 + (k + 0.5) * (y2 - y1) / 160) * scale_y for k in range(160)]
    xs = [(x1 + (k + 0.5) * (x2 - x1) / 160) * scale_x for k in range(160)]
    return ys, xs, (y2 - y1) / 160 * scale_y, (x2 - x1) / 160 * scale_x


def mean_by_loops(pixels, ys, xs, side_y, side_x):
    """Returns the mean of the mask over a square of max(side, 1) pixels around each center, pixel by pixel."""
    side_y, side_x = max(side_y, 1.0), max(side_x, 1.0)
    result = np.zeros((len(ys), len(xs)))
    for a, y in enumerate(ys):
        for b, x in enumerate(xs):
            total = 0.0
            for r in range(max(math.floor(y - side_y / 2), 0), min(math.ceil(y + side_y / 2), len(pixels))):
                high = min(y + side_y / 2, r + 1) - max(y - side_y / 2, r)
                for c in range(max(math.floor(x - side_x / 2), 0), min(math.ceil(x + side_x / 2), len(pixels[0]))):
                    if pixels[r][c]:
                        total += high * (min(x + side_x / 2, c + 1) - max(x - side_x / 2, c))
            result[a, b] = total / (side_y * side_x)
    return result


@pytest.mark.parametrize(
    ("original", "resized", "window"),
    [
        ((30, 41), (120, 164), (0, 3, 4)),  # enlarged
        ((40, 30), (52, 40), (1, 1, 0)),  # about the same
        ((97, 120), (48, 60), (1, 1, 1)),  # reduced, and beyond the image on every side
        ((97, 120), (96, 116), (0, 0, 7)),  # scales of the axes differ
    ],
)
def test_mask_target_equals_loops(original, resized, window):
    strides = (16, 24)
    pixels = blobs(*original, seed=sum(original))
    windows, objects = np.array([window], np.int32), np.array([0])
    target = mask_targets(windows, objects, [instance(pixels)], original, resized, strides)[0]
    mean = mean_by_loops(pixels.tolist(), *cell_centers(window, original, resized, strides))
    sharp = abs(mean - 0.5) > SHARP
    assert 0.01 < target.mean() < 0.95
    assert sharp.mean() > 0.99
    np.testing.assert_array_equal(target[sharp], mean[sharp] >= 0.5)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10), st.integers(0, 12), st.integers(0, 999), st.integers(20, 60), st.integers(20, 60))
def test_enlarged_mask_is_bilinear(i, j, seed, height, width):
    resized = (height * 2 // 4 * 4, width * 2 // 4 * 4)  # cells of at most one original pixel
    pixels = blobs(height, width, seed)
    window = np.array([[0, i, j]], np.int32)
    target = mask_targets(window, np.array([0]), [instance(pixels)], (height, width), resized, (16,))[0]
    ys, xs, side_y, side_x = cell_centers(window[0], (height, width), resized, (16,))
    assert side_y <= 1 and side_x <= 1
    grid = np.meshgrid(np.array(ys) - 0.5, np.array(xs) - 0.5, indexing="ij")  # pixel k's center is at k + ½
    bilinear = ndimage.map_coordinates(np.pad(pixels.astype(float), 2), [g + 2 for g in grid], order=1, cval=0.0)
    sharp = abs(bilinear - 0.5) > SHARP
    np.testing.assert_array_equal(target[sharp], bilinear[sharp] >= 0.5)


def test_mask_target_by_hand():
    """A window of 160 resized pixels at scale 1: the target is the image itself, moved."""
    pixels = np.zeros((200, 240), bool)
    pixels[90:130, 50:75] = True
    target = mask_targets(np.array([[0, 6, 4]], np.int32), np.array([0]), [instance(pixels)], *[(200, 240)] * 2, (16,))
    expected = np.zeros((160, 160), np.uint8)
    expected[90 - 16 : 130 - 16, 50 + 16 : 75 + 16] = 1  # the window starts at (y, x) = (16, −16)
    np.testing.assert_array_equal(target[0], expected)


def test_windows_of_one_object_and_several_give_the_same_as_alone():
    original, resized, strides = (60, 80), (120, 160), (16, 24, 32)
    masks = [instance(blobs(*original, seed=n)) for n in range(3)]
    rng = np.random.default_rng(0)
    windows = np.stack([rng.integers(0, high, 30) for high in (3, 4, 5)], axis=1).astype(np.int32)
    objects = rng.integers(-1, 3, 30)
    together = mask_targets(windows, objects, masks, original, resized, strides)
    for p in range(30):
        alone = mask_targets(windows[p : p + 1], objects[p : p + 1], masks, original, resized, strides)
        np.testing.assert_array_equal(together[p], alone[0])
    assert not together[objects < 0].any()
    assert together[objects >= 0].any(axis=(1, 2)).all()


def test_mask_target_of_the_mirror_image_is_mirrored():
    """Flipping the pixels by hand, and mirroring the RLE, both give the mirrored target of the mirrored window."""
    original, resized, strides = (60, 96), (120, 192), (16,)
    pixels = blobs(*original, seed=5)
    windows, mirrored_windows = (np.array([[0, 3, j]], np.int32) for j in (4, 192 // 16 - 4))
    objects = np.array([0])
    target = mask_targets(windows, objects, [instance(pixels)], original, resized, strides)
    flipped = instance(pixels[:, ::-1])
    for mask in (flipped, instance(pixels).mirror(), flipped.mirror().mirror()):
        mirrored = mask_targets(mirrored_windows, objects, [mask], original, resized, strides)
        mean = mean_by_loops(pixels.tolist(), *cell_centers(windows[0], original, resized, strides))
        sharp = abs(mean - 0.5) > SHARP
        np.testing.assert_array_equal(mirrored[0][:, ::-1][sharp], target[0][sharp])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 999))
def test_mirrored_crop_is_the_crop_of_the_flipped_mask(height, width, seed):
    pixels = np.random.default_rng(seed).random((height, width)) < 0.1
    x, y, crop = instance(pixels).mirror().crop()
    pasted = np.zeros((height, width), bool)
    pasted[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
    np.testing.assert_array_equal(pasted, pixels[:, ::-1])


def test_empty_mask_gives_an_empty_target():
    mask = instance(np.zeros((40, 40)))
    assert not mask_targets(np.array([[0, 1, 1]], np.int32), np.array([0]), [mask], (40, 40), (80, 80), (16,)).any()


def attention_by_loops(box, window, original, resized, strides):
    """Rounds edges to the nearest cell border (halves to even), with at least one cell, cropped to the window."""
    level, i, j = window
    x, y, w, h = box
    ranges = []
    for start, length, place, axis in ((y, h, i, 0), (x, w, j, 1)):
        per_pixel = resized[axis] / (original[axis] * strides[level])
        first = round(start * per_pixel - (place - 5))
        last = round((start + length) * per_pixel - (place - 5))
        if first == last:
            first = math.floor((start + length / 2) * per_pixel - (place - 5))
            last = first + 1
        ranges.append(range(max(first, 0), min(last, 10)))
    target = np.zeros((10, 10), np.uint8)
    for r in ranges[0]:
        for c in ranges[1]:
            target[r, c] = 1
    return target


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 60), st.integers(0, 70), st.integers(1, 40), st.integers(1, 40), st.integers(0, 1))
def test_attention_target_equals_loops(x, y, w, h, level):
    original, resized, strides = (110, 100), (188, 172), (16, 24)
    center_y, center_x = (y + h / 2) * 188 / 110, (x + w / 2) * 172 / 100
    window = (level, round(center_y / strides[level]), round(center_x / strides[level]))
    target = attention_targets(
        np.array([window], np.int32), np.array([0]), np.array([(x, y, w, h)]), original, resized, strides
    )
    np.testing.assert_array_equal(target[0], attention_by_loops((x, y, w, h), window, original, resized, strides))
    assert target.any()


def test_attention_target_by_hand():
    windows = np.array([[0, 6, 6], [0, 6, 6], [0, 2, 6], [0, 0, 0]], np.int32)  # from pixel 16, of 16-pixel cells
    boxes = np.array([[41, 70, 47, 20], [91, 93, 2, 3]])
    targets = attention_targets(windows, np.array([0, 1, 0, -1]), boxes, (200, 200), (200, 200), (16,))
    expected = np.zeros((4, 10, 10), np.uint8)
    expected[0, 3:5, 2:4] = 1  # y 3.4 … 4.6 → 3 … 5, x 1.6 … 4.5 → 2 … 4
    expected[1, 4, 4] = 1  # y 4.8 … 5, x 4.7 … 4.8: no border between, so the cell of the middle
    expected[2, 7:9, 2:4] = 1  # four cells lower
    np.testing.assert_array_equal(targets, expected)
