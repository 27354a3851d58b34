"""The division of an image into tiles, compared with its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmask_jax.inference.options import ProposeOptions
from fastmask_jax.inference.tiling import grid_of, strips, tile_grid


def options(**changed):
    return ProposeOptions(**{"long_edges": 100, "tile": "off", "tile_overlap": 0.25} | changed)


@st.composite
def cases(draw):
    """(H, W), side of a tile, overlap."""
    tile = draw(st.integers(2, 40))
    return (draw(st.integers(1, 200)), draw(st.integers(1, 200))), tile, draw(st.integers(0, tile // 2))


@given(cases())
@settings(max_examples=150, deadline=None)
def test_tiles_cover_every_pixel_overlap_and_are_as_few_as_possible(case):
    size, tile, overlap = case
    grid = tile_grid(size, tile, overlap)
    covered = np.zeros(size, int)
    for one in grid:
        assert (one.y2 - one.y1, one.x2 - one.x1) == (min(tile, size[0]), min(tile, size[1]))
        covered[one.y1 : one.y2, one.x1 : one.x2] += 1
        assert grid.is_last(one) == ((one.y2, one.x2) == size)
    assert (covered > 0).all()
    assert len(list(grid)) == len(grid) == len(grid.tops) * len(grid.lefts)
    for starts, side in ((grid.tops, size[0]), (grid.lefts, size[1])):
        shared = min(tile, side) - np.diff(starts)
        assert (shared >= overlap).all()
        assert len(starts) == 1 or (len(starts) - 1) * (tile - overlap) + overlap < side  # fewer would not suffice
        assert np.ptp(np.diff(starts)) <= 1 if len(starts) > 1 else starts == (0,)


def test_a_grid_by_hand():
    grid = tile_grid((100, 250), 100, 25)
    assert grid.tops == (0,) and grid.lefts == (0, 75, 150)
    assert [one.box for one in grid] == [(0, 0, 100, 100), (75, 0, 175, 100), (150, 0, 250, 100)]


@pytest.mark.parametrize(
    ("size", "changed", "want"),
    [
        ((300, 300), {"tile": "off"}, None),
        ((64, 64), {"tile": 64}, None),
        ((65, 64), {"tile": 64}, ((0, 1), (0,))),
        ((65, 112), {"tile": 64, "tile_overlap": 16}, ((0, 1), (0, 48))),
        ((200, 200), {"tile": "auto"}, None),
        ((201, 10), {"tile": "auto"}, ((0, 50, 101), (0,))),
        ((201, 10), {"tile": "auto", "long_edges": (50, 80)}, ((0, 40, 80, 121), (0,))),
    ],
)
def test_when_an_image_is_divided(size, changed, want):
    grid = grid_of(size, options(**changed))
    assert (None if grid is None else (grid.tops, grid.lefts)) == want


class ForwardOnly:
    """An image of which each row can be read once, in order."""

    def __init__(self, pixels):
        self.pixels, self.shape, self.at = pixels, pixels.shape, 0

    def __getitem__(self, where):
        rows, columns = where
        assert rows.start == self.at and columns == slice(None)
        self.at = rows.stop
        return self.pixels[where]


@given(cases(), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_strips_are_rows_of_tiles_read_once(case, seed):
    size, tile, overlap = case
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    grid = tile_grid(size, tile, overlap)
    image = ForwardOnly(pixels)
    for strip, top in zip(strips.__wrapped__(image, grid), grid.tops, strict=True):
        np.testing.assert_array_equal(strip, pixels[top : top + grid.height])
    assert image.at == size[0]


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"tile": 10}, "tile=10: expected an integer from 64 to 1000000; the nearest is 64"),
        ({"tile": "on"}, r"tile='on' is not one of \['off', 'auto', 'an integer'\]"),
        ({"tile": True}, "tile=True: expected a number of pixels"),
        ({"tile_overlap": 0.6}, "tile_overlap=0.6: expected pixels, or a share below 1; at most half of the tile"),
        ({"tile_overlap": -1}, "tile_overlap=-1"),
        ({"tile": 128, "tile_overlap": 65}, "tile_overlap=65"),
    ],
)
def test_wrong_options_are_refused(wrong, line):
    with pytest.raises(ValueError, match=line):
        ProposeOptions(**wrong)


def test_options_from_text_and_config():
    assert ProposeOptions(tile="512").tile == 512
    section = {
        "mask_threshold": 0.5,
        "stability_weight": 0.0,
        "extra_thresholds": (),
        "rerank_iou": 1.0,
        "exif": "ignore",
        "long_edges": (96,),
        "tile": "1024",
        "tile_overlap": 0.25,
        "proposals": 10,
        "max_pixels": 10,
    }
    assert ProposeOptions().with_defaults(section).tile == 1024
    assert ProposeOptions(tile="off").with_defaults(section).tile == "off"
    with pytest.raises(ValueError, match="tile_overlap=600"):
        ProposeOptions(tile_overlap=600).with_defaults(section)
