"""Removal of small parts and holes, compared with flood fills in plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from fastmask_jax.masks.cleaning import clean
from tests.test_label_map import encoded

SIDES = [(0, 1), (1, 0), (0, -1), (-1, 0)]
CORNERS = [*SIDES, (1, 1), (1, -1), (-1, 1), (-1, -1)]


def connected(bitmap, steps):
    """Returns the pixels of each connected part as a set, in the order of their first pixels."""
    left = set(zip(*np.nonzero(bitmap), strict=True))
    parts = []
    for start in sorted(left):
        if start in left:
            part, waiting = {start}, [start]
            while waiting:
                y, x = waiting.pop()
                for dy, dx in steps:
                    if (y + dy, x + dx) in left - part:
                        part.add((y + dy, x + dx))
                        waiting.append((y + dy, x + dx))
            left -= part
            parts.append(part)
    return parts


def expected(bitmap, min_part, fill_holes):
    result, (height, width) = bitmap.copy(), bitmap.shape
    for hole in connected(~bitmap, SIDES):
        inside = all(0 < y < height - 1 and 0 < x < width - 1 for y, x in hole)
        if inside and fill_holes and len(hole) <= (fill_holes * bitmap.sum() if fill_holes < 1 else fill_holes):
            for pixel in hole:
                result[pixel] = True
    parts = connected(result, CORNERS)
    least = min_part * result.sum() if min_part < 1 else min_part
    for part in parts:
        if len(part) < least and part is not max(parts, key=len):
            for pixel in part:
                result[pixel] = False
    return result


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.2, 0.5, 0.8]),
    st.sampled_from([0, 0.1, 0.5, 1, 3, 1000]),
    st.sampled_from([0, 0.1, 0.5, 1, 3, 1000]),
)
@settings(max_examples=100, deadline=None)
def test_small_parts_go_and_small_holes_fill(seed, share, min_part, fill_holes):
    rng = np.random.default_rng(seed)
    bitmap = rng.random(rng.integers(1, 12, 2)) < share
    (rle,) = encoded([bitmap])
    cleaned = clean(rle, min_part, fill_holes)
    parts = [len(part) for part in connected(coco_mask.decode(cleaned), CORNERS)]
    assert sorted(parts) == sorted(map(len, connected(expected(bitmap, min_part, fill_holes), CORNERS)))
    if len(set(parts)) == len(parts):  # if the largest parts are equal, either may stay
        np.testing.assert_array_equal(coco_mask.decode(cleaned), expected(bitmap, min_part, fill_holes))


def test_numbers_below_zero_are_refused():
    (rle,) = encoded([np.ones((2, 2), bool)])
    with pytest.raises(ValueError, match="min_part=-1: expected a number of pixels"):
        clean(rle, min_part=-1)
    with pytest.raises(ValueError, match="fill_holes=nan: expected a number of pixels"):
        clean(rle, fill_holes=float("nan"))
