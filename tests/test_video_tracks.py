"""Tracking of squares that move, meet, hide and return."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

pytest.importorskip("scipy")
from fastmask_jax.apps.video.tracks import Tracker

SIZE = (80, 120)


def square(x, y=10, side=20):
    bitmap = np.zeros(SIZE, np.uint8, order="F")
    bitmap[y : y + side, x : x + side] = 1
    rle = coco_mask.encode(bitmap)
    return {"size": list(SIZE), "counts": rle["counts"].decode()}


def numbers(followed):
    return followed.tracks.tolist()


def test_objects_keep_number_and_color_whatever_their_order():
    tracker = Tracker()
    first = tracker.follow([square(0), square(50)])
    assert numbers(first) == [1, 2] and first.slots.tolist() == [0, 1]
    later = tracker.follow([square(53), square(3), square(90)])
    assert numbers(later) == [2, 1, 3] and later.slots.tolist() == [1, 0, 2]


def test_the_pairs_of_greatest_sum_are_joined():
    """Greedy matching would leave one mask unmatched; compared with all assignments."""
    tracker = Tracker(least_iou=0.1)
    old, new = [square(0), square(12)], [square(8), square(14)]
    tracker.follow(old)
    iou = np.asarray(coco_mask.iou(new, old, [0, 0]))
    best = max(itertools.permutations(range(2)), key=lambda order: sum(iou[n, k] for n, k in enumerate(order)))
    assert numbers(tracker.follow(new)) == [k + 1 for k in best]


def test_an_object_that_hides_comes_back_as_itself_but_not_after_too_long():
    for hidden, same in ((3, True), (4, False)):
        tracker = Tracker(memory=3)
        tracker.follow([square(0), square(60)])
        for _ in range(hidden):
            assert numbers(tracker.follow([square(60)])) == [2]
        back = tracker.follow([square(60), square(1)])
        assert numbers(back) == [2, 1 if same else 3]
        assert back.slots.tolist() == [1, 0]  # the color of a dropped object is reused


def test_a_jump_begins_a_track_and_empty_frames_are_fine():
    tracker = Tracker(least_iou=0.3)
    assert numbers(tracker.follow([])) == []
    assert numbers(tracker.follow([square(0)])) == [1]
    assert numbers(tracker.follow([square(11)])) == [2]  # IoU 9 / 31
    assert numbers(tracker.follow([square(20)])) == [2]  # IoU 11 / 29


@given(st.lists(st.lists(st.integers(0, 100), max_size=6, unique=True), max_size=8))
def test_no_two_masks_of_a_frame_share_a_track_or_a_color(frames):
    tracker = Tracker(memory=2)
    slots = {}
    most = 0
    for frame in frames:
        followed = tracker.follow([square(x) for x in frame])
        assert len(set(numbers(followed))) == len(set(followed.slots.tolist())) == len(frame)
        assert set(numbers(followed)) <= {*slots, *range(most + 1, most + 1 + len(frame))}
        for number, slot in zip(numbers(followed), followed.slots.tolist(), strict=True):
            assert slots.setdefault(number, slot) == slot
        most = max([most, *numbers(followed)])


def test_an_iou_of_zero_is_none():
    with pytest.raises(ValueError, match="least_iou=0"):
        Tracker(least_iou=0.0)
