"""Augmentation, compared with whole masks cropped and drawn with plain NumPy."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from fastmask_jax.data.augment import Sample, color_jitter, copy_paste, cut, mirror, random_crop
from fastmask_jax.data.targets import InstanceMask
from fastmask_jax.geometry import resized_size


def whole_mask(mask, height, width):
    """A mask's pixels in the image, from its smallest rectangle."""
    x, y, pixels = mask.crop()
    whole = np.zeros((height, width), np.uint8)
    whole[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
    return whole


def make_sample(rng, height=40, width=60, objects=5):
    """Ellipses of one color each, the later ones over the earlier ones; the last is a crowd."""
    image = rng.integers(1, 50, (height, width, 3)).astype(np.uint8)
    owner = np.full((height, width), -1)
    rows, columns = np.mgrid[:height, :width]
    for n in range(objects):
        ry, rx = rng.integers(3, height // 2), rng.integers(3, width // 2)
        cy, cx = rng.integers(0, height), rng.integers(0, width)
        inside = ((rows - cy) / ry) ** 2 + ((columns - cx) / rx) ** 2 <= 1
        owner[inside] = n
        image[inside] = 100 + 25 * n
    kept = [n for n in range(objects) if (owner == n).any()]
    rles = [coco_mask.encode(np.asfortranarray((owner == n).astype(np.uint8))) for n in kept]
    boxes = np.array([coco_mask.toBbox(rle) for rle in rles]).astype(np.int64).reshape(-1, 4)
    crowd = np.array([n == objects - 1 for n in kept], bool)
    return Sample(image, boxes, crowd, InstanceMask.of_rles(rles)), owner


def box_of(mask):
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_part_is_the_part_of_image_masks_and_boxes(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    sample, _ = make_sample(rng)
    full = [whole_mask(mask, 40, 60) for mask in sample.masks]
    w, h = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 40))
    x, y = data.draw(st.integers(0, 60 - w)), data.draw(st.integers(0, 40 - h))
    if data.draw(st.booleans()):
        part = cut(sample, x, y, w, h)
    else:  # two crops equal one
        a, b = data.draw(st.integers(0, x)), data.draw(st.integers(0, y))
        part = cut(cut(replace(sample, crowd=sample.crowd & False), a, b, 60 - a, 40 - b), x - a, y - b, w, h)
        sample = replace(sample, crowd=sample.crowd & False)
        if len(part.masks) < len(full):
            return  # each crop measures visibility separately
    np.testing.assert_array_equal(part.image, sample.image[y : y + h, x : x + w])
    remaining = [mask[y : y + h, x : x + w] for mask in full]
    expected = [
        n
        for n, mask in enumerate(remaining)
        if mask.any() and not sample.crowd[n] and mask.sum() >= 0.3 * full[n].sum()
    ]
    objects = np.flatnonzero(~part.crowd)
    assert len(objects) == len(expected)
    for place, n in zip(objects, expected, strict=True):
        np.testing.assert_array_equal(whole_mask(part.masks[place], h, w), remaining[n])
        np.testing.assert_array_equal(part.boxes[place], box_of(remaining[n]))


@pytest.mark.parametrize("seed", range(5))
def test_mirror_and_part_go_in_either_order(seed):
    sample, _ = make_sample(np.random.default_rng(seed))
    one, other = mirror(cut(sample, 7, 5, 30, 20)), cut(mirror(sample), 60 - 7 - 30, 5, 30, 20)
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.boxes, other.boxes)
    assert len(one.masks) > 0
    for a, b in zip(one.masks, other.masks, strict=True):
        np.testing.assert_array_equal(whole_mask(a, 20, 30), whole_mask(b, 20, 30))


@pytest.mark.parametrize("long_edge", [24, 60, 97, 180])
def test_a_random_part_fills_its_room_at_the_scale_of_the_long_edge(long_edge):
    sample, _ = make_sample(np.random.default_rng(0))
    places = set()
    for seed in range(20):
        shown, resized = random_crop(sample, long_edge, (64, 64), np.random.default_rng(seed))
        whole = resized_size(40, 60, long_edge)
        for axis in range(2):
            assert resized[axis] % 4 == 0 and resized[axis] <= 64
            if whole[axis] <= 64:
                assert shown.size[axis] == sample.size[axis] and resized[axis] == whole[axis]
            else:
                assert resized[axis] > 64 - 4 - long_edge / 60  # a pixel of the image, and a multiple of 4
            assert abs(resized[axis] / shown.size[axis] - long_edge / 60) * shown.size[axis] <= 4
        places.add(shown.image.tobytes())
    assert len(places) == 1 if max(resized_size(40, 60, long_edge)) <= 64 else len(places) > 5


def test_colors_are_one_affine_map_of_all_pixels_and_none_at_strength_zero():
    sample, _ = make_sample(np.random.default_rng(1))
    assert color_jitter(sample, 0.0, np.random.default_rng(0)) is sample
    for seed in range(5):
        changed = color_jitter(sample, 0.3, np.random.default_rng(seed))
        x = np.concatenate([sample.image.reshape(-1, 3), np.ones((2400, 1))], axis=1)
        y = changed.image.reshape(-1, 3).astype(float)
        inside = ((y > 0) & (y < 255)).all(axis=1)
        fitted, *_ = np.linalg.lstsq(x[inside], y[inside], rcond=None)
        assert np.abs(x[inside] @ fitted - y[inside]).max() <= 1.0  # rounding
        # Difference between a white and a black pixel: brightness × contrast × balance, independent of saturation.
        slope = fitted[:3].sum(axis=0)
        assert (slope >= 0.7 * 0.7 * 0.85 - 0.02).all() and (slope <= 1.3 * 1.3 * 1.15 + 0.02).all()
        assert changed.masks is sample.masks and changed.boxes is sample.boxes
    assert not np.array_equal(changed.image, sample.image)


@pytest.mark.parametrize("seed", range(12))
def test_copies_lie_over_what_was_there(seed):
    rng = np.random.default_rng(seed)
    sample, owner = make_sample(rng)
    giver, _ = make_sample(rng, 30, 30, objects=3)
    giver = replace(giver, image=giver.image * np.array([1, 0, 0], np.uint8))  # red, where all else is gray
    result = copy_paste(sample, giver, 3, np.random.default_rng(seed))
    masks = np.array([whole_mask(mask, 40, 60) for mask in result.masks]).reshape(-1, 40, 60).astype(bool)
    kept = (result.image == sample.image).all(axis=2)
    copied = np.zeros_like(kept)
    for n, mask in enumerate(masks):
        if result.crowd[n]:
            continue
        assert mask.any()
        np.testing.assert_array_equal(result.boxes[n], box_of(mask))
        values = result.image[mask]
        if (values[:, 1] == 0).all():
            copied |= mask
        else:  # an original object: its own color, minus what the copies occlude
            assert len(np.unique(values)) == 1 and kept[mask].all()
            k = (int(values[0, 0]) - 100) // 25
            assert mask.sum() >= 0.3 * (owner == k).sum()
            np.testing.assert_array_equal(mask, (owner == k) & kept)
    assert kept[~copied].all()
    apart = masks[~result.crowd]
    assert apart.sum(axis=0).max(initial=0) <= 1


def test_copies_are_drawn_at_all():
    rng = np.random.default_rng(0)
    changed = 0
    for seed in range(20):
        sample, _ = make_sample(rng)
        giver, _ = make_sample(rng, 30, 30, objects=3)
        changed += copy_paste(sample, giver, 3, np.random.default_rng(seed)) is not sample
    assert changed > 8
