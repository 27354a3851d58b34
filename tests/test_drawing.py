"""Drawings: positions and colors, and that the rest of the image is unchanged."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from fastmask_jax.masks.drawing import (
    BEYOND,
    captioned,
    contour,
    crop,
    distinct_colors,
    dots,
    frame,
    grid,
    heat,
    line_width,
    overlay,
)

RED = np.array([255, 0, 0], np.uint8)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(30, 226, (height, width, 3), dtype=np.uint8)


def ellipse(height: int, width: int, center: tuple[int, int], axes: tuple[int, int]) -> np.ndarray:
    y, x = np.indices((height, width))
    return ((x - center[0]) / axes[0]) ** 2 + ((y - center[1]) / axes[1]) ** 2 <= 1


def changed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before != after).any(-1)


def lab(rgb: np.ndarray) -> np.ndarray:
    """Converts RGB to CIE Lab (D65) by the textbook formulas."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    t = xyz / (0.9505, 1.0, 1.089)
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("count, apart", [(8, 50), (20, 30), (60, 15), (240, 5)])
def test_colors_are_far_apart(count, apart):
    places = lab(distinct_colors(count) / 255)
    distance = np.linalg.norm(places[:, None] - places, axis=-1)
    assert distance[~np.eye(count, dtype=bool)].min() > apart


def test_a_color_depends_on_its_number_alone():
    many = distinct_colors(300)
    np.testing.assert_array_equal(distinct_colors(7), many[:7])
    np.testing.assert_array_equal(many[240:], many[:60])
    assert distinct_colors(0).shape == (0, 3)


@given(st.integers(0, 1000), st.integers(20, 90), st.integers(20, 90))
def test_an_overlay_changes_masks_and_a_pixel_around_them(seed, height, width):
    rng = np.random.default_rng(seed)
    image = noise(height, width, seed)
    masks = np.stack(
        [
            ellipse(height, width, tuple(rng.integers(0, min(height, width), 2)), tuple(rng.integers(1, 25, 2)))
            for _ in range(3)
        ]
    )
    before = image.copy()
    result = overlay(image, masks)
    np.testing.assert_array_equal(image, before)
    around = cv2.dilate(masks.any(0).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert not changed(image, result)[~around].any()


def test_filling_is_the_mean_of_image_and_color_weighed_by_opacity():
    image, mask = noise(60, 80), ellipse(60, 80, (40, 30), (30, 20))
    result = overlay(image, mask[None], colors=RED[None], opacity=0.25)
    deep = cv2.erode(mask.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    np.testing.assert_allclose(result[deep], 0.75 * image[deep] + 0.25 * RED, atol=0.51)


def test_the_first_mask_lies_on_top():
    image = noise(60, 80)
    masks = np.stack([ellipse(60, 80, (30, 30), (12, 12)), ellipse(60, 80, (40, 30), (25, 25))])
    colors = distinct_colors(2)
    result = overlay(image, masks, colors=colors, opacity=1.0)
    np.testing.assert_array_equal(result[30, 30], colors[0])
    np.testing.assert_array_equal(result[30, 55], colors[1])


def test_rle_and_bitmaps_draw_the_same():
    image, mask = noise(50, 70), ellipse(50, 70, (30, 20), (20, 15))
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    as_results = {"size": [50, 70], "counts": rle["counts"].decode()}
    np.testing.assert_array_equal(overlay(image, [as_results], ["0.5"]), overlay(image, mask[None], ["0.5"]))


def test_labels_cover_nothing_of_each_other():
    image = np.full((200, 300, 3), 90, np.uint8)
    masks = np.stack([ellipse(200, 300, (150, 100), (40, 40))] * 3)
    colors = distinct_colors(3)
    result = overlay(image, masks, ["0.91", "0.92", "0.93"], colors, opacity=0.0)
    boxes = [(result == color).all(-1) for color in colors]
    inner = cv2.erode(masks[0].astype(np.uint8), np.ones((9, 9), np.uint8)) > 0  # without contours
    filled = [(box & inner).sum() for box in boxes]
    assert min(filled) > 0.8 * max(filled) > 100


def drawn_boxes(result: np.ndarray, image: np.ndarray, colors: np.ndarray) -> list[np.ndarray]:
    """Returns the rectangle (x1, y1, x2, y2) around the pixels of each drawn color."""
    boxes = []
    for color in colors:
        y, x = np.nonzero((result == color).all(-1) & changed(image, result))
        boxes += [np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])] if len(x) else []
    return boxes


@given(st.integers(0, 1000), st.integers(70, 200), st.integers(70, 200))
def test_labels_lie_in_the_image_whole_and_apart(seed, height, width):
    """Masks of one pixel have no contours, so only labels are colored."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 90, np.uint8)
    masks = np.zeros((12, height, width), bool)
    for mask in masks:  # most of them in one corner
        mask[rng.integers(0, 9), rng.integers(0, 9)] = True
    colors = distinct_colors(12)
    result = overlay(image, masks, ["0.50"] * 12, colors, opacity=0.0)
    boxes = [box for box in drawn_boxes(result, image, colors) if (box[2:] - box[:2]).min() > 3]
    assert len(boxes) >= 4  # there is room for this many
    sides = {tuple(box[2:] - box[:2]) for box in boxes}
    assert len(sides) == 1  # none is cut at the image or covered by another
    for n, one in enumerate(boxes):
        for other in boxes[:n]:
            assert (one[:2] >= other[2:]).any() or (other[:2] >= one[2:]).any()


@pytest.mark.parametrize("size", [(36, 48), (2, 400), (400, 2), (1, 1)])
def test_a_label_that_would_hide_the_image_is_left_out(size):
    image, mask = noise(*size), np.ones(size, bool)
    np.testing.assert_array_equal(overlay(image, mask[None], ["0.50"]), overlay(image, mask[None]))


@pytest.mark.parametrize("size", [(150, 200), (750, 1000), (3000, 4000)])
def test_a_label_has_the_same_margin_above_and_below_its_text(size):
    image, mask = np.full((*size, 3), 90, np.uint8), np.zeros(size, bool)
    mask[size[0] // 2, size[1] // 2] = True
    result = overlay(image, mask[None], ["0.88"], RED[None], opacity=0.0)
    ((x1, y1, x2, y2),) = drawn_boxes(result, image, RED[None])
    text = np.flatnonzero((np.abs(result[y1:y2, x1:x2].astype(int) - RED).max(-1) > 127).any(1))
    above, below = text[0], y2 - y1 - 1 - text[-1]
    assert min(above, below) >= 1 and abs(above - below) <= max(2, 0.2 * (y2 - y1))


def test_labels_are_read_on_every_color():
    """Contrast by WCAG 2, which requires at least 4.5 for small text."""

    def luminance(rgb):
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return linear @ np.array([0.2126, 0.7152, 0.0722])

    for color in distinct_colors(240):
        image, mask = np.full((60, 90, 3), 90, np.uint8), np.zeros((60, 90), bool)
        mask[30, 45] = True
        result = overlay(image, mask[None], ["0.88"], color[None], opacity=0.0)
        there = luminance(result[changed(image, result)] / 255)
        ground = luminance(color / 255)
        assert (np.maximum(there, ground) + 0.05).max() / (np.minimum(there, ground) + 0.05).min() > 3.9


def test_an_opacity_beyond_its_range_is_refused():
    for wrong in (2.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"opacity=.*: expected a value between 0 .* and 1"):
            overlay(noise(6, 8), np.ones((1, 6, 8), bool), opacity=wrong)


def test_a_contour_is_as_wide_as_is_asked_for():
    image, mask = noise(60, 60), ellipse(60, 60, (30, 30), (20, 20))
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    for width in (1, 2, 5):
        line = (contour(image, mask, RED, width) == RED).all(-1)
        assert line[(depth > 0) & (depth < width)].all() and not line[depth > width + 1].any()


@pytest.mark.parametrize("size", [(40, 40), (900, 1200)])
def test_a_contour_is_the_rim_of_the_mask(size):
    height, width = size
    image = noise(height, width)
    mask = ellipse(height, width, (width // 2, height // 2), (width // 3, height // 3))
    result = contour(image, mask, RED)
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    line = (result == RED).all(-1)
    assert line[(depth > 0) & (depth < line_width(image))].all()
    assert not changed(image, result)[depth > line_width(image) + 1].any()
    assert not line[~mask].any()


def test_a_mask_that_ends_with_the_image_has_no_contour_there():
    image = noise(40, 40)
    whole = np.ones((40, 40), bool)
    np.testing.assert_array_equal(contour(image, whole, RED), image)
    np.testing.assert_array_equal(contour(image, ~whole, RED), image)


@pytest.mark.parametrize(
    "masks, labels, told",
    [
        ([coco_mask.encode(np.ones((5, 5), np.uint8, order="F"))], (), "mask 0 of"),
        (np.ones((2, 6, 8), bool), ("one",), "1 labels"),
    ],
)
def test_what_does_not_fit_is_refused(masks, labels, told):
    with pytest.raises(ValueError, match=told):
        overlay(noise(6, 8), masks, labels)


def test_heat_lies_on_its_cells_and_nowhere_else():
    image = np.full((60, 80, 3), 100, np.uint8)
    values = np.zeros((10, 10))
    values[2, 7] = 1.0  # row 2, column 7
    result = heat(image, values, (-10, 5, 30, 45), opacity=1.0)  # cells of 4 pixels
    bright = result.astype(int).sum(-1) > 500
    expected = np.zeros((60, 80), bool)
    expected[5 + 8 : 5 + 12, -10 + 28 : -10 + 32] = True
    np.testing.assert_array_equal(bright, expected)
    outside = np.ones((60, 80), bool)
    outside[5:45, :30] = False
    assert not changed(image, result)[outside].any()


@given(st.integers(-40, 90), st.integers(-40, 70), st.integers(1, 60))
def test_heat_by_a_plain_loop(x1, y1, side):
    image, values = noise(50, 60), np.random.default_rng(1).random((10, 10))
    result = heat(image, values, (x1, y1, x1 + side, y1 + side), opacity=1.0)
    scale = cv2.applyColorMap(np.rint(values * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    expected = image.copy()
    for y in range(max(y1, 0), min(y1 + side, 50)):
        for x in range(max(x1, 0), min(x1 + side, 60)):
            expected[y, x] = scale[int((y - y1 + 0.5) * 10 / side), int((x - x1 + 0.5) * 10 / side)]
    np.testing.assert_array_equal(result, expected)


def test_heat_says_the_same_on_every_color():
    """The image under the cells is gray: pixels of equal brightness look the same, whatever their color."""
    gray = cv2.cvtColor(noise(20, 20), cv2.COLOR_RGB2GRAY)
    values = np.random.default_rng(1).random((10, 10))
    tints = [heat(np.repeat(gray[..., None], 3, 2), values, (0, 0, 20, 20))]
    ycrcb = np.dstack([gray, np.full_like(gray, 160), np.full_like(gray, 110)])
    colored = cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2RGB)
    inside = ((colored > 0) & (colored < 255)).all(-1)  # elsewhere the brightness is clipped
    tints.append(heat(colored, values, (0, 0, 20, 20)))
    assert inside.mean() > 0.5
    np.testing.assert_allclose(tints[0][inside].astype(int), tints[1][inside].astype(int), atol=1)


def test_a_crop_shows_the_window_and_gray_beyond():
    image = noise(30, 40)
    view = crop(image, (-5, 10, 15, 30), 20)
    np.testing.assert_array_equal(view[:, 5:], image[10:30, :15])
    assert (view[:, :5] == BEYOND).all()
    assert (crop(image, (100, 100, 120, 120), 10) == BEYOND).all()


def test_a_frame_stays_within_its_rectangle():
    image = noise(40, 50)
    inside = np.zeros((40, 50), bool)
    inside[10:50, 5:30] = True
    for dashed in (False, True):
        result = frame(image, (5, 10, 30, 60), RED, dashed)
        assert not changed(image, result)[~inside].any()
        assert not changed(image, result)[13:, 8:27].any()
    np.testing.assert_array_equal(frame(image, (5, 10, 30, 60), RED)[10:, 5], np.tile(RED, (30, 1)))


def test_dots_lie_on_their_points():
    image = np.full((40, 40, 3), 50, np.uint8)
    for cross in (False, True):
        result = dots(image, np.array([[10, 30]]), RED, cross)
        np.testing.assert_array_equal(result[30, 10], RED)
        assert not changed(image, result)[:20].any()


def test_a_sheet_holds_every_picture_whole():
    pictures = [noise(20 + 7 * n, 90 - 9 * n, n) for n in range(5)]
    sheet = grid(pictures, [f"number {n}" for n in range(5)], columns=2)
    for picture in pictures:
        match = cv2.matchTemplate(sheet, picture, cv2.TM_SQDIFF)
        assert match.min() < 1e-2 * picture.size
    with pytest.raises(ValueError, match="at least one"):
        grid([])
    with pytest.raises(ValueError):
        grid(pictures, ["one"])


def test_a_caption_takes_the_lines_it_needs():
    image = noise(30, 120)
    short, long = captioned(image, "a cat"), captioned(image, "a cat and a dog and a bird and a fish and a horse")
    assert 30 < short.shape[0] < long.shape[0]
    for picture in (short, long):
        np.testing.assert_array_equal(picture[-30:], image)
