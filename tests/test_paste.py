"""Pasted masks, compared with cv2.resize of the whole window and with transposed convolution by loops."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from fastmask_jax.geometry import all_windows, original_window_boxes, resized_size
from fastmask_jax.masks.paste import Runs, paste, upsample

STRIDES = (16, 24, 32, 48, 64, 96, 128)


def transposed_convolution(logits):
    """8×8, stride 4, bilinear kernel, two cells cut at each border: cell by cell."""
    side = 1 - np.abs(np.arange(8) - 3.5) / 4
    out = np.zeros((164, 164))
    for i in range(40):
        for j in range(40):
            out[4 * i : 4 * i + 8, 4 * j : 4 * j + 8] += logits[i, j] * np.outer(side, side)
    return out[2:-2, 2:-2]


def literal_probabilities(windows, logits, resized, original):
    """Resizes every window's probabilities as a whole and pastes them into the image; 0 elsewhere."""
    height, width = original
    for (x1, y1, x2, y2), mask in zip(original_window_boxes(windows, STRIDES, resized, original), logits, strict=True):
        image = np.zeros(original, np.float32)
        if x2 > x1 and y2 > y1:
            fine = expit(transposed_convolution(mask)).astype(np.float32)
            drawn = cv2.resize(fine, (int(x2 - x1), int(y2 - y1)), interpolation=cv2.INTER_LINEAR)
            top, bottom, left, right = max(y1, 0), min(y2, height), max(x1, 0), min(x2, width)
            if bottom > top and right > left:
                image[top:bottom, left:right] = drawn[top - y1 : bottom - y1, left - x1 : right - x1]
        yield image


def drawn(runs: Runs):
    """Rasterizes runs to masks, pixel by pixel."""
    height, width = runs.size
    for k in range(len(runs.splits) - 1):
        flips = np.zeros(height * width + 1, np.int64)
        np.add.at(flips, runs.edges[runs.splits[k] : runs.splits[k + 1]], 1)
        yield (np.cumsum(flips)[:-1] % 2 == 1).reshape(width, height).T


def smooth_logits(rng, count):
    """Returns logits of many kinds: fine and coarse, faint and sharp, mostly inside and mostly outside."""
    logits = []
    for noise in rng.normal(size=(count, 40, 40)):
        smooth = cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.6, 7))
        logits.append(smooth / smooth.std() * rng.uniform(0.3, 8) + rng.uniform(-7, 3))
    return np.array(logits, np.float32)


def some_windows(rng, resized, count):
    windows = all_windows(*resized, STRIDES)
    return windows[rng.choice(len(windows), min(count, len(windows)), replace=False)]


def differences(windows, logits, resized, original, threshold=0.2):
    """Returns the numbers of all and of differing pixels, and how far the latter are from the threshold."""
    runs = paste(windows, logits, strides=STRIDES, resized=resized, original=original, threshold=threshold)
    pixels, wrong, far = 0, 0, 0.0
    pairs = zip(literal_probabilities(windows, logits, resized, original), drawn(runs), strict=True)
    for probability, mask in pairs:
        differ = (probability >= np.float32(threshold)) != mask
        pixels, wrong = pixels + differ.size, wrong + differ.sum()
        far = max(far, np.abs(probability[differ] - threshold).max(initial=0))
    return pixels, wrong, far


def test_upsample_is_the_transposed_convolution():
    logits = np.random.default_rng(0).normal(size=(3, 40, 40)).astype(np.float32)
    expected = [transposed_convolution(mask) for mask in logits]
    np.testing.assert_allclose(upsample(logits), expected, atol=1e-5)


def test_paste_equals_resizing_whole_windows():
    rng = np.random.default_rng(1)
    total, wrong = 0, 0
    for original, count in {
        (480, 640): 150,
        (333, 500): 25,
        (427, 640): 25,
        (64, 80): 25,
        (870, 652): 25,
        (1100, 1400): 25,
    }.items():
        resized = resized_size(*original, 870)
        windows = some_windows(rng, resized, count)  # also more than are pasted at once
        pixels, differ, far = differences(windows, smooth_logits(rng, len(windows)), resized, original)
        assert far <= 1e-5
        total, wrong = total + pixels, wrong + differ
    assert wrong <= 1e-6 * total


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([32, 64, 100, 200]),
    st.sampled_from([0.05, 0.2, 0.5, 0.8]),
    st.integers(0, 2**32 - 1),
)
def test_paste_of_any_image_and_threshold(height, width, long_edge, threshold, seed):
    rng = np.random.default_rng(seed)
    resized = resized_size(height, width, long_edge)
    windows = some_windows(rng, resized, 4)
    logits = smooth_logits(rng, len(windows))
    assert differences(windows, logits, resized, (height, width), threshold)[2] <= 1e-5


@pytest.mark.parametrize("level", [0.0, 9.0, -9.0])
def test_paste_of_even_masks_reaches_the_border(level):
    original, resized = (120, 160), resized_size(120, 160, 870)
    windows = some_windows(np.random.default_rng(2), resized, 12)
    logits = np.full((len(windows), 40, 40), level, np.float32)
    assert differences(windows, logits, resized, original)[1] == 0


def test_negative_border_cells_are_drawn_towards_zero():
    # A border cell of logit −2 is 0.12, but becomes −1.25, thus 0.22, at the window's edge, with 5/8 of the kernel.
    original = resized = (400, 400)
    windows = np.array([[2, 6, 6]], np.int32)
    logits = np.full((1, 40, 40), -9.0, np.float32)
    logits[0, 0, :] = -2.0
    mask = next(drawn(paste(windows, logits, strides=STRIDES, resized=resized, original=original, threshold=0.2)))
    assert mask[32].sum() > 300 and not mask[60:].any()
    assert differences(windows, logits, resized, original)[1] == 0


def test_windows_beyond_the_image_and_without_a_pixel_have_no_run():
    windows = np.array([[0, 0, 0], [6, 0, 0]], np.int32)
    logits = np.full((2, 40, 40), 5.0, np.float32)
    logits[1] = -9
    runs = paste(windows, logits, strides=STRIDES, resized=(868, 868), original=(2, 2), threshold=0.2)
    assert (np.diff(runs.splits) == 0).sum() >= 1 and runs.size == (2, 2)
    nothing = paste(windows[:0], logits[:0], strides=STRIDES, resized=(868, 868), original=(2, 2), threshold=0.2)
    assert len(nothing.edges) == 0 and nothing.splits.tolist() == [0]


def test_edges_do_not_decrease_where_cells_are_at_the_threshold():
    """Fine cells that lie on pixels, with probabilities of 0.5 but for rounding: malformed runs hang pycocotools."""
    rng = np.random.default_rng(3)
    resized = original = (320, 320)
    windows = some_windows(rng, resized, 300)
    logits = rng.integers(-1, 2, (len(windows), 40, 40)).astype(np.float32) * rng.choice(
        [1e-7, 1e-6, 1], (len(windows), 1, 1)
    )
    runs = paste(windows, logits.astype(np.float32), strides=STRIDES, resized=resized, original=original, threshold=0.5)
    assert len(runs.edges) > 1000
    for begin, end in zip(runs.splits[:-1], runs.splits[1:], strict=True):
        assert (np.diff(runs.edges[begin:end]) >= 0).all() and (end - begin) % 2 == 0


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.2])
def test_threshold_is_a_probability(threshold):
    with pytest.raises(ValueError, match="probability between 0 and 1"):
        paste(
            np.zeros((1, 3), np.int32),
            np.zeros((1, 40, 40), np.float32),
            strides=STRIDES,
            resized=(64, 64),
            original=(64, 64),
            threshold=threshold,
        )
