"""Masks cropped, moved and sampled as RLE, compared with bitmaps."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from fastmask_jax.masks import rle_regions
from fastmask_jax.masks.rle import run_lengths


def random_masks(rng, count, size):
    """Returns bitmaps from empty to full, some with runs over many columns."""
    shares = rng.choice([0.0, 0.03, 0.5, 0.97, 1.0], count)
    return [rng.random(size) < share for share in shares]


def rle_of(mask):
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


@st.composite
def sides(draw):
    return draw(st.integers(1, 12)), draw(st.integers(1, 12))


@given(st.integers(0, 2**32 - 1), st.integers(0, 5), sides(), st.data())
@settings(max_examples=80, deadline=None)
def test_a_crop_is_that_of_the_bitmap(seed, count, size, data):
    masks = random_masks(np.random.default_rng(seed), count, size)
    x1, y1 = data.draw(st.integers(0, size[1] - 1)), data.draw(st.integers(0, size[0] - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, size[1])), data.draw(st.integers(y1 + 1, size[0]))
    box = x1, y1, x2, y2
    rles = [rle_of(mask) for mask in masks]
    assert rle_regions.crop(rles, box) == [rle_of(mask[y1:y2, x1:x2]) for mask in masks]
    for mask, rle in zip(masks, rles, strict=True):
        np.testing.assert_array_equal(rle_regions.bitmap(rle, box), mask[y1:y2, x1:x2])


@given(st.integers(0, 2**32 - 1), sides())
@settings(max_examples=80, deadline=None)
def test_a_tight_bitmap_is_the_mask_in_its_rectangle(seed, size):
    for mask in random_masks(np.random.default_rng(seed), 3, size):
        counts = run_lengths(coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"])
        x, y, pixels = rle_regions.tight_bitmap(counts, size[0])
        rows, columns = np.nonzero(mask)
        if len(rows):
            assert (x, y) == (columns.min(), rows.min())
            np.testing.assert_array_equal(pixels, mask[y : rows.max() + 1, x : columns.max() + 1])
        else:
            assert pixels.size == 0


def test_runs_without_pixels_are_not_drawn():
    x, y, pixels = rle_regions.tight_bitmap(np.array([3, 0, 5, 2, 0, 1, 1, 0]), 4)
    assert (x, y, pixels.tolist()) == (2, 0, [[1], [1], [1]])


@given(st.integers(0, 2**32 - 1), st.integers(0, 5), sides(), sides(), sides())
@settings(max_examples=80, deadline=None)
def test_a_moved_mask_is_a_bitmap_in_a_larger_one(seed, count, size, at, margin):
    masks = random_masks(np.random.default_rng(seed), count, size)
    (x, y), around = (at[0] - 1, at[1] - 1), (size[0] + at[1] - 1 + margin[0], size[1] + at[0] - 1 + margin[1])
    want = []
    for mask in masks:
        whole = np.zeros(around, bool)
        whole[y : y + size[0], x : x + size[1]] = mask
        want.append(rle_of(whole))
    assert rle_regions.place([rle_of(mask) for mask in masks], (x, y), around) == want


@given(st.integers(0, 2**32 - 1), sides())
@settings(max_examples=60, deadline=None)
def test_samples_are_pixels_of_the_bitmap(seed, size):
    rng = np.random.default_rng(seed)
    (mask,) = random_masks(rng, 1, size)
    rows, columns = rng.integers(0, size[0], 5), rng.integers(0, size[1], 3)
    np.testing.assert_array_equal(rle_regions.sampled(rle_of(mask), rows, columns), mask[rows[:, None], columns])


def test_a_mask_of_a_huge_image_is_decoded_around_its_box_alone():
    size = 60_000, 60_000
    (rle,) = rle_regions.place([rle_of(np.ones((3, 4), bool))], (50_000, 59_990), size)
    assert coco_mask.area(rle) == 12 and coco_mask.toBbox(rle).tolist() == [50_000, 59_990, 4, 3]
    np.testing.assert_array_equal(
        rle_regions.bitmap(rle, (49_999, 59_989, 50_005, 59_994)), np.pad(np.ones((3, 4), bool), ((1, 1), (1, 1)))
    )
