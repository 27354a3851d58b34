"""Proposals of tiles become proposals of the image: objects across tiles come out once and whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from skimage.measure import label

from fastmask_jax.inference.options import ProposeOptions
from fastmask_jax.inference.proposals import Proposals
from fastmask_jax.inference.tile_merging import TileMerger
from fastmask_jax.inference.tiling import tile_grid

OPTIONS = ProposeOptions(rerank_iou=1.0, candidates=100)


def proposals_of(bitmaps, scores, size):
    """Returns proposals with nonempty masks."""
    rles = [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in bitmaps]
    boxes = np.array([coco_mask.toBbox(rle) for rle in rles], np.float32).reshape(-1, 4)
    n = len(rles)
    return Proposals(
        scores=np.asarray(scores, np.float32),
        boxes=boxes,
        rles=[{"size": list(size), "counts": rle["counts"].decode()} for rle in rles],
        windows=np.zeros((n, 3), np.int32),
        long_edges=np.full(n, 96, np.int32),
        mirrored=np.zeros(n, bool),
        window_boxes=np.zeros((n, 4), np.int64),
        attention=np.zeros((n, 10, 10), np.float32),
        image=np.zeros((*size, 3), np.uint8),
        empty=1,
    )


def seen_in(objects, scores, tile):
    """Returns the results of a perfect network in a tile: bitmaps of the visible part of each object, and scores."""
    visible = np.zeros(objects.shape[1:], bool)
    visible[tile.y1 : tile.y2, tile.x1 : tile.x2] = True
    seen = [(mask & visible, score) for mask, score in zip(objects, scores, strict=True) if (mask & visible).any()]
    return [mask for mask, _ in seen], [score for _, score in seen]


def merged(objects, scores, grid, whole, options=OPTIONS):
    merger = TileMerger(grid, options, whole)
    for tile in grid:
        merger.add(tile, proposals_of(*seen_in(objects, scores, tile), grid.size))
    return merger.merged()


def assert_masks(found, want):
    got = sorted(found.mask(k).tobytes() for k in range(len(found)))
    assert got == sorted(mask.tobytes() for mask in want)


@given(st.integers(0, 2**32 - 1), st.integers(30, 90), st.integers(30, 90), st.integers(8, 15))
@settings(max_examples=30, deadline=None)
def test_objects_of_any_size_come_out_once_and_whole(seed, height, width, overlap):
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width), int)
    y, x = np.indices(labels.shape)
    for number in range(1, 9):  # ellipses, later ones on top: each part of one that remains is an object
        cy, cx, ry, rx = *rng.uniform(0, 1, 2) * (height, width), *rng.choice([2, 5, 12, 40], 2)
        labels[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1] = number
    parts = label(labels, connectivity=1, background=0)
    objects = (parts == np.arange(1, parts.max() + 1)[:, None, None]).reshape(-1, height, width)
    scores = rng.integers(1, 9, len(objects)) / 8
    grid = tile_grid((height, width), 30, overlap)
    if len(grid) == 1:
        return
    found = merged(objects, scores, grid, proposals_of([], [], grid.size))
    assert_masks(found, objects)
    by_mask = {mask.tobytes(): score for mask, score in zip(objects, scores, strict=True)}
    assert all(found.scores[k] == by_mask[found.mask(k).tobytes()] for k in range(len(found)))
    np.testing.assert_array_equal(found.boxes, [coco_mask.toBbox(rle) for rle in found.rles] if len(found) else [])
    assert found.empty == len(grid) + 1


def object_at(size, x1, y1, x2, y2):
    mask = np.zeros(size, bool)
    mask[y1:y2, x1:x2] = True
    return mask


SIZE = 64, 200
GRID = tile_grid(SIZE, 64, 16)  # lefts 0, 45, 90, 136


def test_pieces_of_what_the_whole_image_has_are_dropped():
    large = object_at(SIZE, 20, 10, 180, 50)
    found = merged(large[None], [0.6], GRID, proposals_of([large], [0.5], SIZE))
    assert_masks(found, [large])
    assert found.scores == np.float32(0.6)


def test_a_whole_mask_that_the_network_does_not_trust_replaces_nothing():
    """The pieces are joined instead, and the union is the better duplicate."""
    large = object_at(SIZE, 20, 10, 180, 50)
    unsure = object_at(SIZE, 20, 10, 180, 48)
    found = merged(large[None], [0.9], GRID, proposals_of([unsure], [0.1], SIZE))
    assert_masks(found, [large])


def test_of_an_object_in_tiles_and_in_the_whole_image_the_better_mask_stays():
    small, coarse, other = (object_at(SIZE, *box) for box in ((70, 20, 80, 30), (70, 20, 80, 31), (75, 20, 90, 30)))
    found = merged(small[None], [0.5], GRID, proposals_of([coarse, other], [0.9, 0.3], SIZE))
    assert_masks(found, [coarse, other])
    found = merged(small[None], [0.95], GRID, proposals_of([coarse, other], [0.9, 0.3], SIZE))
    assert_masks(found, [small, other])


def test_a_piece_without_a_counterpart_stays_as_it_is():
    grid = tile_grid((64, 112), 64, 16)
    piece = object_at(grid.size, 30, 20, 64, 40)
    merger = TileMerger(grid, OPTIONS, proposals_of([], [], grid.size))
    left, right = grid
    merger.add(left, proposals_of([piece], [0.7], grid.size))
    merger.add(right, proposals_of([], [], grid.size))
    assert_masks(merger.merged(), [piece])


def test_memory_is_bounded_and_the_best_distinct_masks_are_kept():
    """Many masks in many rows of tiles: four times the candidates stay, and duplicates go first."""
    size = 640, 64
    grid = tile_grid(size, 64, 0)
    merger = TileMerger(grid, ProposeOptions(rerank_iou=0.8, candidates=10), proposals_of([], [], size))
    rng = np.random.default_rng(0)
    for tile in grid:
        x, y = rng.integers(10, 40, (2, 30))
        bitmaps = [object_at(size, a, tile.y1 + b, a + 6, tile.y1 + b + 6) for a, b in zip(x, y, strict=True)]
        best = object_at(size, 50, tile.y1 + 10, 55, tile.y1 + 15)
        scores = rng.uniform(0.1, 0.6, 30)
        merger.add(tile, proposals_of([*bitmaps, best, best], [*scores, 0.9, 0.8], size))
    found = merger.merged()
    assert len(found) == 40
    assert (found.scores == np.float32(0.9)).sum() == 10
    assert (found.scores == np.float32(0.8)).sum() == 0


@pytest.mark.parametrize("axis", [0, 1])
def test_masks_that_differ_beyond_the_edge_are_not_joined(axis):
    """Two objects that end at the same edge, one in each tile, share no pixels there."""
    grid = tile_grid((64, 112) if axis == 0 else (112, 64), 64, 16)
    boxes = (20, 5, 64, 15), (48, 40, 90, 50)
    masks = [object_at(grid.size, *(box if axis == 0 else (box[1], box[0], box[3], box[2]))) for box in boxes]
    merger = TileMerger(grid, OPTIONS, proposals_of([], [], grid.size))
    for tile, mask in zip(grid, masks, strict=True):
        merger.add(tile, proposals_of([mask], [0.5], grid.size))
    assert_masks(merger.merged(), masks)
