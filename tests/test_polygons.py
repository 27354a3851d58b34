"""Outlines compared with pycocotools' rasterizer, areas with pixel counts, distances with plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from fastmask_jax.masks.polygons import keyholed, one_ring, polygons, signed_area
from tests.test_cleaning import SIDES, connected
from tests.test_label_map import encoded

SEEDS = st.integers(0, 2**32 - 1)


def random_mask(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 12, 2)) < rng.choice([0.1, 0.3, 0.5, 0.7, 0.9])
    return mask.repeat(rng.integers(1, 4), 0).repeat(rng.integers(1, 4), 1)


def drawn(rings, shape):
    flat = [ring.ravel().tolist() for ring in rings if len(ring)]
    if not flat:
        return np.zeros(shape, bool)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, *shape))).astype(bool)


@given(SEEDS)
@settings(max_examples=200, deadline=None)
def test_outlines_without_tolerance_hold_the_mask_exactly(seed):
    mask = random_mask(seed)
    parts = polygons(encoded([mask])[0], 0)
    areas = [signed_area(part.outer) + sum(signed_area(hole) for hole in part.holes) for part in parts]
    assert sorted(areas) == sorted(map(len, connected(mask, SIDES)))
    assert all(signed_area(hole) < 0 for part in parts for hole in part.holes)
    outer = [signed_area(part.outer) for part in parts]
    assert outer == sorted(outer, reverse=True)
    np.testing.assert_array_equal(drawn([keyholed(part) for part in parts], mask.shape), mask)
    np.testing.assert_array_equal(drawn([one_ring(parts)], mask.shape), mask)
    for part in parts:
        for ring in (part.outer, *part.holes):
            assert len(np.unique(ring, axis=0)) == len(ring)  # no outline meets itself


def distance(point, ring):
    """Returns the distance from a point to a ring."""
    nearest = np.inf
    for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        along = np.clip((point - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
        nearest = min(nearest, np.linalg.norm(point - a - along * (b - a)))
    return nearest


@given(SEEDS, st.sampled_from([0.5, 1.0, 3.0]))
@settings(max_examples=60, deadline=None)
def test_simplified_outlines_stay_within_the_tolerance(seed, tolerance):
    rle = encoded([random_mask(seed)])[0]
    for exact, fewer in zip(polygons(rle, 0), polygons(rle, tolerance), strict=True):
        assert len(fewer.outer) <= len(exact.outer)
        for ring, simple in zip([exact.outer, *exact.holes], [fewer.outer, *fewer.holes], strict=True):
            assert len(simple) >= 3
            assert max(distance(point, simple) for point in ring) <= tolerance + 1e-4
            assert {tuple(point) for point in simple} <= {tuple(point) for point in ring}


def test_a_disc_needs_few_corners():
    y, x = np.mgrid[:200, :200]
    disc = np.hypot(y - 99.5, x - 99.5) < 80
    (exact,), (simple,) = polygons(encoded([disc])[0], 0), polygons(encoded([disc])[0], 1.0)
    assert len(exact.outer) > 300 > 75 > len(simple.outer)
    iou = (drawn([simple.outer], disc.shape) & disc).sum() / (drawn([simple.outer], disc.shape) | disc).sum()
    assert iou > 0.97


def test_a_ring_with_an_island():
    mask = np.zeros((9, 9), bool)
    mask[1:8, 1:8] = True
    mask[2:7, 2:7] = False
    mask[4, 4] = True
    around, island = polygons(encoded([mask])[0], 0)
    assert around.outer.tolist() == [[1, 1], [8, 1], [8, 8], [1, 8]] and len(around.holes) == 1
    assert sorted(around.holes[0].tolist()) == [[2, 2], [2, 7], [7, 2], [7, 7]]
    assert sorted(island.outer.tolist()) == [[4, 4], [4, 5], [5, 4], [5, 5]] and not island.holes


def test_no_pixel_no_polygon():
    assert polygons(encoded([np.zeros((4, 5), bool)])[0]) == []
    assert one_ring([]).shape == (0, 2)
    with pytest.raises(ValueError, match="tolerance=-1: expected a number of pixels"):
        polygons(encoded([np.ones((2, 2), bool)])[0], -1)


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_shapely_finds_the_polygons_valid(seed):
    shapely = pytest.importorskip("shapely", reason="shapely is not installed")
    mask = random_mask(seed)
    parts = [shapely.Polygon(part.outer, part.holes) for part in polygons(encoded([mask])[0], 0)]
    assert all(part.is_valid for part in parts)
    assert sum(part.area for part in parts) == mask.sum()
