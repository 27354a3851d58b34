"""Bounds of IoU and intersections from runs, compared with bitmaps."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from fastmask_jax.masks import iou_bounds
from fastmask_jax.masks.intersections import shared_pixels
from fastmask_jax.masks.iou_bounds import cell_counts, coarse, iou_ranges, most_shared


@st.composite
def masks_of_an_image(draw):
    """Draws bitmaps: noise, rectangles, full and empty masks, of images of few and of many cells."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    masks = np.zeros((draw(st.integers(1, 6)), height, width), np.uint8)
    for mask in masks:
        kind = draw(st.sampled_from(["noise", "rectangle", "full", "empty"]))
        if kind == "noise":
            mask[:] = rng.random((height, width)) < rng.random()
        elif kind == "rectangle":
            top, bottom = np.sort(rng.integers(0, height + 1, 2))
            left, right = np.sort(rng.integers(0, width + 1, 2))
            mask[top:bottom, left:right] = 1
        elif kind == "full":
            mask[:] = 1
    return masks, draw(st.sampled_from([1, 4, 50, 700]))


@settings(max_examples=200, deadline=None)
@given(masks_of_an_image(), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_bounds_hold_and_intersections_are_exact(drawn, threshold):
    masks, cells = drawn
    rles = [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]
    before, iou_bounds.CELLS = iou_bounds.CELLS, cells
    try:
        counted, runs = coarse(rles)
    finally:
        iou_bounds.CELLS = before
    assert counted.areas.tolist() == masks.sum((1, 2)).tolist()
    first, second = (numbers.ravel() for numbers in np.indices((len(masks), len(masks))))
    shared = np.array([(masks[m] & masks[n]).sum() for m, n in zip(first, second, strict=True)])
    joined = np.array([(masks[m] | masks[n]).sum() for m, n in zip(first, second, strict=True)])
    ious = shared / np.maximum(joined, 1)
    assert shared_pixels(runs, first, second).tolist() == shared.tolist()
    assert shared_pixels(runs, first[:0], second[:0]).tolist() == []
    assert (most_shared(counted, first, second) >= shared).all()
    least, greatest = iou_ranges(counted, first, second, threshold)
    assert (least <= ious).all() and (ious <= greatest).all()


@settings(max_examples=100, deadline=None)
@given(masks_of_an_image(), st.integers(1, 45))
def test_pixels_of_cells_are_those_of_the_bitmap(drawn, side):
    masks, _ = drawn
    _, runs = coarse([coco_mask.encode(np.asfortranarray(mask)) for mask in masks])
    for mask, counts in zip(masks, cell_counts(runs, side), strict=True):
        rows, columns = -(-mask.shape[0] // side), -(-mask.shape[1] // side)
        cells = [
            int(mask[y * side : (y + 1) * side, x * side : (x + 1) * side].sum())
            for x in range(columns)
            for y in range(rows)
        ]
        assert counts.tolist() == cells


def test_many_pairs_of_masks_with_many_edges():
    rng = np.random.default_rng(0)
    masks = (rng.random((40, 60, 70)) < 0.5).astype(np.uint8)  # 2,000 edges each: pairs are looked up in several parts
    _, runs = coarse([coco_mask.encode(np.asfortranarray(mask)) for mask in masks])
    first, second = rng.integers(0, 40, (2, 300))
    expected = [(masks[m] & masks[n]).sum() for m, n in zip(first, second, strict=True)]
    assert shared_pixels(runs, first, second).tolist() == expected
