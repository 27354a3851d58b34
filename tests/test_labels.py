"""Labels compared with docs/network.md §2 as plain loops over windows and objects, and with hand-computed cases."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmask_jax.data.labels import label_windows, sample, whole_boxes
from tests.tiny import label_spec

SPEC = label_spec()
STRIDES = (16, 24, 32, 48, 64, 96, 128)


def labels_by_loops(boxes, crowd, original, resized, strides, spec):
    """{(level, i, j): (matched object or −1, is hard negative)}, in exact fractions."""
    low, high, middle = Fraction(str(spec.fit_low)), Fraction(str(spec.fit_high)), Fraction(str(spec.center))
    scale_y, scale_x = Fraction(resized[0], original[0]), Fraction(resized[1], original[1])
    result = {}
    for level, s in enumerate(strides):
        for i in range(-(-resized[0] // s) + 1):
            for j in range(-(-resized[1] // s) + 1):
                best, nearest, negative = -1, None, False
                for n, (x, y, w, h) in enumerate(boxes.tolist()):
                    if crowd[n] or w == 0 or h == 0:
                        continue
                    dx = abs((x + Fraction(w, 2)) * scale_x - j * s)
                    dy = abs((y + Fraction(h, 2)) * scale_y - i * s)
                    longest = max(w * scale_x, h * scale_y)
                    fits = low * 10 * s <= longest <= high * 10 * s
                    inside = dx <= 5 * s and dy <= 5 * s
                    centered = dx <= middle * 5 * s and dy <= middle * 5 * s
                    distance = dx * dx + dy * dy
                    if fits and inside and centered and (nearest is None or distance < nearest):
                        best, nearest = n, distance
                    if (inside and centered and not fits) or (inside and fits):
                        negative = True
                result[level, i, j] = best, negative and best < 0
    return result


def check_against_loops(boxes, crowd, original, resized, strides, spec=SPEC):
    got = label_windows(boxes, crowd, original, resized, strides, spec)
    expected = labels_by_loops(boxes, crowd, original, resized, strides, spec)
    windows = [tuple(window) for window in got.windows.tolist()]
    assert windows == list(expected)
    np.testing.assert_array_equal(got.matched, [matched for matched, _ in expected.values()])
    np.testing.assert_array_equal(got.hard_negative, [negative for _, negative in expected.values()])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_labels_equal_plain_loops(data):
    original = data.draw(st.tuples(st.integers(20, 90), st.integers(20, 90)), label="original")
    resized = tuple(max(round(side * 2.7) // 4 * 4, 4) for side in original)
    count = data.draw(st.integers(0, 8), label="objects")
    box = st.tuples(st.integers(-5, 80), st.integers(-5, 80), st.integers(0, 90), st.integers(0, 90))
    boxes = np.array(data.draw(st.lists(box, min_size=count, max_size=count)), np.int64).reshape(-1, 4)
    crowd = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool)
    check_against_loops(boxes, crowd, original, resized, (8, 12, 16, 24))


def test_many_crowded_objects_equal_plain_loops():
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.integers(0, 300, (40, 2)), rng.integers(1, 200, (40, 2))], axis=1)
    check_against_loops(boxes, rng.random(40) < 0.1, (300, 400), (412, 548), (16, 24, 32, 48))


def test_unscaled_object_by_hand():
    """80 × 40 pixels centered at (160, 160): m = 80 pixels fits only stride 16 (67.2 … 108.8)."""
    labels = label_windows(np.array([[120, 140, 80, 40]]), np.zeros(1, bool), (320, 320), (320, 320), (16, 24), SPEC)
    positive = {tuple(window) for window in labels.windows[labels.positive].tolist()}
    # the window at (160, 160) and its neighbors, exactly on the border of the middle square, 16 pixels away
    assert positive == {(0, i, j) for i in (9, 10, 11) for j in (9, 10, 11)}
    negative = {tuple(window) for window in labels.windows[labels.hard_negative].tolist()}
    inside = {(0, i, j) for i in range(5, 16) for j in range(5, 16)}  # 5 steps of 16 pixels to either side
    centered = {(1, i, j) for i in (6, 7) for j in (6, 7)}  # 144 and 168 are within 24 pixels of 160
    assert negative == inside - positive | centered


@pytest.mark.parametrize(("longest", "fits"), [(41, False), (42, True), (68, True), (69, False)])
def test_size_range_includes_its_ends(longest, fits):
    labels = label_windows(np.array([[100, 100, longest, 7]]), np.zeros(1, bool), (256, 256), (256, 256), (10,), SPEC)
    assert labels.positive.any() == fits


def test_nearest_of_two_objects_wins_and_the_first_of_equals():
    boxes = np.array([[60, 60, 80, 80], [58, 60, 80, 80], [60, 60, 80, 80]])  # centers (100, 100), (98, 100), again
    labels = label_windows(boxes, np.zeros(3, bool), (256, 256), (256, 256), (16,), SPEC)
    matched = {tuple(w): n for w, n in zip(labels.windows.tolist(), labels.matched.tolist(), strict=True) if n >= 0}
    assert {window: n for window, n in matched.items() if window[1] == 6} == {(0, 6, 6): 1, (0, 6, 7): 0}


def test_crowds_and_boxes_without_area_are_left_out():
    boxes = whole_boxes(np.array([[60, 60, 80, 80], [60, 60, 0.4, 80], [60, 60, 80, 0.0]], np.float32))
    labels = label_windows(boxes, np.array([True, False, False]), (256, 256), (256, 256), STRIDES, SPEC)
    assert not labels.positive.any()
    assert not labels.hard_negative.any()
    assert len(labels.windows) == sum((-(-256 // s) + 1) ** 2 for s in STRIDES)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 180)] * 2, *[st.integers(1, 180)] * 2), max_size=6))
def test_labels_of_the_mirror_image_are_mirrored(boxes):
    """If a stride divides the width, column j of the window grid is column (columns − 1 − j) of the mirror image's."""
    boxes = np.array(boxes, np.int64).reshape(-1, 4)
    mirrored = boxes.copy()
    mirrored[:, 0] = 192 - boxes[:, 0] - boxes[:, 2]
    crowd, strides = np.zeros(len(boxes), bool), (16, 24, 32)
    one, other = (label_windows(b, crowd, (192, 192), (192, 192), strides, SPEC) for b in (boxes, mirrored))
    columns = 192 // np.array(strides)[one.windows[:, 0]]
    place = {tuple(window): n for n, window in enumerate(other.windows.tolist())}
    partner = [place[level, i, c - j] for (level, i, j), c in zip(one.windows.tolist(), columns, strict=True)]
    np.testing.assert_array_equal(one.matched, other.matched[partner])
    np.testing.assert_array_equal(one.hard_negative, other.hard_negative[partner])


def test_sample_draws_without_replacement_and_pads():
    labels = label_windows(np.array([[120, 140, 80, 40]]), np.zeros(1, bool), (320, 320), (320, 320), STRIDES, SPEC)
    drawn = sample(labels, np.random.default_rng(0), SPEC)
    kinds = zip(labels.positive, labels.hard_negative, strict=True)
    kind = dict(zip(map(tuple, labels.windows.tolist()), kinds, strict=True))
    scored = [tuple(window) for window in drawn.score_windows[drawn.score_weights == 1].tolist()]
    assert len(scored) == len(set(scored)) == 32 + min(32, labels.positive.sum())
    for window, label in zip(scored, drawn.score_labels, strict=False):
        assert kind[window] == (label == 1, label == 0)
    masks = [tuple(window) for window in drawn.mask_windows[drawn.mask_weights == 1].tolist()]
    assert sorted(masks) == [tuple(window) for window in labels.windows[labels.positive].tolist()]
    padding = drawn.mask_weights == 0
    assert (drawn.mask_objects[padding] == -1).all()
    assert not drawn.mask_windows[padding].any()
    assert drawn.score_windows.shape == (64, 3)
    assert drawn.mask_windows.shape == (64, 3)


def test_sample_is_uniform():
    labels = label_windows(np.array([[120, 140, 80, 40]]), np.zeros(1, bool), (320, 320), (320, 320), (16,), SPEC)
    few = label_spec(score_positives=3, score_negatives=3, mask_positives=3)
    rng = np.random.default_rng(1)
    times = {tuple(window): 0 for window in labels.windows[labels.positive].tolist()}
    for _ in range(900):
        for window in sample(labels, rng, few).mask_windows.tolist():
            times[tuple(window)] += 1
    expected = 900 * 3 / 9  # nine positive windows; standard deviation of a count 14
    assert all(abs(count - expected) < 70 for count in times.values())


def background_by_loops(boxes, original, resized, strides, spec, unlabeled, partly_labeled, matched):
    """Returns windows known to contain no fitting object, one by one."""
    known = []
    for s in strides:
        for i in range(-(-resized[0] // s) + 1):
            for j in range(-(-resized[1] // s) + 1):
                y = min(int(Fraction(i * s * original[0], resized[0])), original[0] - 1)
                x = min(int(Fraction(j * s * original[1], resized[1])), original[1] - 1)
                too_coarse = spec.fit_low * 10 * s > max(resized)
                known.append(not (too_coarse or unlabeled[y, x]))
    known = np.array(known)
    return known & (matched < 0) & (not partly_labeled), known


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_unknown_windows_are_no_negatives(data):
    original = data.draw(st.tuples(st.integers(20, 60), st.integers(20, 60)))
    resized = tuple(max(round(side * 2.3) // 4 * 4, 4) for side in original)
    box = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(5, 50), st.integers(5, 50))
    boxes = np.array(data.draw(st.lists(box, min_size=1, max_size=4)), np.int64)
    unlabeled = np.zeros(original, bool)
    unlabeled[data.draw(st.integers(0, 19)) :, : data.draw(st.integers(1, 20))] = True
    partly, crowd, strides = data.draw(st.booleans()), np.zeros(len(boxes), bool), (8, 12, 32)
    spec = label_spec(ignore_unknown=True)
    got = label_windows(boxes, crowd, original, resized, strides, spec, unlabeled, partly)
    plain = label_windows(boxes, crowd, original, resized, strides, SPEC)
    background, known = background_by_loops(boxes, original, resized, strides, spec, unlabeled, partly, plain.matched)
    np.testing.assert_array_equal(got.matched, plain.matched)
    np.testing.assert_array_equal(got.background, background)
    np.testing.assert_array_equal(got.hard_negative, plain.hard_negative & known)


@pytest.mark.parametrize(("longest", "level"), [(39, None), (40, 0), (50, 0), (67, 0), (68, 0), (110, 1), (109, 1)])
def test_the_finest_level_takes_smaller_objects(longest, level):
    """Strides 16 and 24 at .25 and .42 to .68: 40 to 108.8 pixels, and 100.8 to 163.2."""
    spec = label_spec(finest_fit_low=0.25)
    box = np.array([[100, 100, longest, longest]])
    labels = label_windows(box, np.zeros(1, bool), (400, 400), (400, 400), (16, 24), spec)
    found = set(labels.windows[labels.positive][:, 0].tolist())
    assert (level in found) if level is not None else not found


def test_random_negatives_join_and_positives_are_those_of_the_masks():
    labels = label_windows(np.array([[120, 140, 80, 40]]), np.zeros(1, bool), (320, 320), (320, 320), STRIDES, SPEC)
    spec = label_spec(score_positives=4, score_negatives=5, mask_positives=6, random_negatives=200)
    drawn = sample(labels, np.random.default_rng(0), spec)
    np.testing.assert_array_equal(drawn.score_windows[:4], drawn.mask_windows[:4])
    np.testing.assert_array_equal(drawn.score_labels, [1] * 4 + [0] * 205)
    place = {tuple(window): n for n, window in enumerate(labels.windows.tolist())}
    others = [place[tuple(window)] for window in drawn.score_windows[9:].tolist()]
    assert len(set(others)) == 200 and not labels.positive[others].any()
    assert (~labels.hard_negative[others]).sum() > 20  # windows far from the object, too
