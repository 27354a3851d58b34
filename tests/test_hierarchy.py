"""Parents and groups of masks, compared with plain loops over bitmaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmask_jax.masks.hierarchy import groups, hierarchy
from fastmask_jax.masks.rle import ScoredMasks
from fastmask_jax.masks.suppression import suppress
from tests.test_label_map import encoded


def random_bitmaps(seed, count, height=12, width=12):
    rng = np.random.default_rng(seed)
    bitmaps = np.zeros((count, height, width), bool)
    for bitmap in bitmaps:
        y, x, h, w = rng.integers(0, 8), rng.integers(0, 8), rng.integers(1, 8), rng.integers(1, 8)
        bitmap[y : y + h, x : x + w] = rng.random(bitmap[y : y + h, x : x + w].shape) < 0.9
        bitmap[y, x] = True
    return bitmaps, rng


def areas_of(bitmaps):
    return bitmaps.sum((1, 2)).astype(np.int64)


@given(st.integers(0, 2**32 - 1), st.integers(0, 9), st.sampled_from([0.3, 0.5, 0.9, 1.0]))
@settings(max_examples=60, deadline=None)
def test_parents_are_the_smallest_larger_masks_around(seed, count, inside):
    bitmaps, _ = random_bitmaps(seed, count)
    areas = areas_of(bitmaps)
    found = hierarchy(encoded(bitmaps), areas, inside)
    for k in range(count):
        around = [
            n
            for n in range(count)
            if (areas[n], -n) > (areas[k], -k) and (bitmaps[k] & bitmaps[n]).sum() / areas[k] >= inside
        ]
        expected = min(around, key=lambda n: (areas[n], -n), default=-1)
        assert found.parent[k] == expected
        chain = [k]
        while found.parent[chain[-1]] >= 0:
            chain.append(found.parent[chain[-1]])
        assert found.root[k] == chain[-1] and found.depth[k] == len(chain) - 1
        assert found.children(k).tolist() == [n for n in range(count) if found.parent[n] == k]


def test_a_face_in_a_person_in_a_car():
    bitmaps = np.zeros((4, 20, 20), bool)
    bitmaps[0, 5:9, 5:9] = True  # face
    bitmaps[1, 1:19, 1:19] = True  # car
    bitmaps[2, 4:16, 4:12] = True  # person
    bitmaps[3, 17:20, 17:20] = True  # something at the car's corner
    found = hierarchy(encoded(bitmaps), areas_of(bitmaps))
    assert found.parent.tolist() == [2, -1, 1, -1]
    assert found.root.tolist() == [1, 1, 1, 3]
    assert found.depth.tolist() == [2, 0, 1, 0]
    assert found.children(1).tolist() == [2]


def test_a_share_that_is_met_exactly_is_enough():
    """55 of 100 pixels are a share of .55, although .55 · 100 is above 55 in floating point."""
    bitmaps = np.zeros((2, 20, 20), bool)
    bitmaps[0, :10, :10] = True
    bitmaps[1, :, 10:] = True
    bitmaps[1, 5:10, :10] = bitmaps[1, 0, :5] = True
    found = hierarchy(encoded(bitmaps), areas_of(bitmaps), 0.55)
    assert found.parent.tolist() == [1, -1]


def test_an_empty_mask_has_no_parent_and_is_a_group_of_its_own():
    bitmaps = np.zeros((3, 9, 9), bool)
    bitmaps[0, 2:6, 2:6] = True
    assert hierarchy(encoded(bitmaps), areas_of(bitmaps)).parent.tolist() == [-1, -1, -1]
    assert groups(encoded(bitmaps), np.zeros(3, np.float32), 0.0).tolist() == [0, 1, 2]


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 60),  # more than are compared at once
    st.sampled_from([0.0, 0.2, 0.5, 1.0]),
)
@settings(max_examples=40, deadline=None)
def test_the_best_of_the_groups_are_what_suppression_keeps(seed, count, iou_threshold):
    bitmaps, rng = random_bitmaps(seed, count)
    rles, scores = encoded(bitmaps), rng.integers(0, 4, count).astype(np.float32)
    boxes = np.tile(np.array([0, 0, 12, 12], np.float32), (count, 1))
    kept = suppress(ScoredMasks(scores, boxes, rles, np.arange(count), 0), iou_threshold).tolist()
    found = groups(rles, scores, iou_threshold)
    assert sorted(set(found.tolist())) == sorted(kept) and set(found[kept].tolist()) == set(kept)
    flat = bitmaps.reshape(count, 12 * 12).astype(np.int64)
    shared = flat @ flat.T
    for k in set(range(count)) - set(kept):
        better = [n for n in kept if (-scores[n], n) < (-scores[k], k)]
        ious = [shared[k, n] / (shared[k, k] + shared[n, n] - shared[k, n]) for n in better]
        assert max(ious) > iou_threshold and better[int(np.argmax(ious))] == found[k]


def test_shares_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"inside=0: expected a share .* above 0 to 1"):
        hierarchy([], np.zeros(0, np.int64), 0)
    with pytest.raises(ValueError, match=r"iou_threshold=1\.5: expected an IoU"):
        groups([], np.zeros(0, np.float32), 1.5)
