"""Geometry compared with hand-computed cases, exact fractions and loops."""

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmask_jax import geometry

STRIDES = (16, 24, 32, 48, 64, 96, 128)
SIDES = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("original", "long_edge", "resized"),
    [
        ((480, 640), 870, (652, 868)),  # 652.5 and 870
        ((640, 480), 800, (800, 600)),
        ((427, 640), 1300, (864, 1300)),  # 867.34
        ((3, 2000), 870, (4, 868)),  # 1.3 rows would be none
        ((1, 1), 800, (800, 800)),
    ],
)
def test_resized_size_by_hand(original, long_edge, resized):
    assert geometry.resized_size(*original, long_edge) == resized


@given(SIDES, SIDES, st.integers(8, 1400))
def test_resized_size_is_the_spec_in_fractions(height, width, long_edge):
    scale = Fraction(long_edge, max(height, width))
    want = tuple(max(floor(side * scale) // 4 * 4, 4) for side in (height, width))
    assert geometry.resized_size(height, width, long_edge) == want


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="0x0 pixels"):
        geometry.resized_size(0, 0, 800)


@given(SIDES, st.sampled_from([(2, 2, 2, 2), (2, 2, 2, 3), (2, 2, 2, 3, 2, 2), (2, 2, 2, 2, 2, 2, 2)]))
def test_cells_of_a_level_are_those_of_its_steps(side, steps):
    cells, stride = side, 1
    for step in steps:
        cells, stride = ceil(cells / step), stride * step
    assert geometry.level_cells(side, stride) == cells


def test_windows_of_an_image_by_hand():
    # 40 x 20 pixels: 3 x 2 cells at 16, 2 x 1 at 24.
    assert geometry.level_sizes(40, 20, (16, 24)) == [(3, 2), (2, 1)]
    assert geometry.window_grids(40, 20, (16, 24)) == [(4, 3), (3, 2)]
    windows = geometry.all_windows(40, 20, (16, 24))
    want = [(0, i, j) for i in range(4) for j in range(3)] + [(1, i, j) for i in range(3) for j in range(2)]
    assert windows.dtype == np.int32
    assert [tuple(w) for w in windows.tolist()] == want


def test_boxes_of_a_window_by_hand():
    windows = np.array([[0, 0, 0], [1, 2, 3]], np.int32)
    # Window (2, 3) of stride 24 is centered at row 48, column 72 and reaches 120 pixels each way.
    want = [[-80, -80, 80, 80], [-48, -72, 192, 168]]
    assert geometry.window_boxes(windows, (16, 24)).tolist() == want
    # In an image twice as high and 1.5 times as wide.
    want = [[-120, -160, 120, 160], [-72, -144, 288, 336]]
    assert geometry.original_window_boxes(windows, (16, 24), (100, 100), (200, 150)).tolist() == want


@given(st.integers(1, 60), st.integers(1, 900), st.integers(1, 900), st.integers(0, 6))
def test_original_window_boxes_are_the_spec_in_fractions(n, resized, original, level):
    window = np.array([[level, n, n // 2]], np.int32)
    got = geometry.original_window_boxes(window, STRIDES, (resized, 2 * resized), (original, original))[0]
    s = STRIDES[level]
    edges = [(n // 2 - 5, 2), (n - 5, 1), (n // 2 + 5, 2), (n + 5, 1)]
    for value, (cell, sides) in zip(got, edges, strict=True):
        assert int(value) == round(Fraction(cell * s * original, sides * resized))  # halves to even


def test_the_smallest_bucket_that_holds_the_image_is_chosen():
    buckets = [(872, 872), (656, 872), (872, 656)]
    assert geometry.choose_bucket(480, 640, 870, buckets) == 1
    assert geometry.choose_bucket(640, 480, 870, buckets) == 2
    assert geometry.choose_bucket(640, 640, 870, buckets) == 0
    with pytest.raises(ValueError, match=r"1300x1300.*add one of 1300x1300"):
        geometry.choose_bucket(500, 500, 1300, buckets)
