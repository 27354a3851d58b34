"""Run-length strings and boxes of runs, compared with pycocotools on bitmaps."""

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from fastmask_jax.geometry import resized_size
from fastmask_jax.masks.paste import Runs, paste
from fastmask_jax.masks.rle import covered_pixels, encode, masks_to_results, tight_boxes
from tests.test_paste import STRIDES, drawn, smooth_logits, some_windows


def runs_of_crop(crop, top, left, height):
    """Returns the edges of a crop's runs, column by column and not joined over columns, like `paste`."""
    edges = []
    for x, column in enumerate(crop.T):
        flips = np.flatnonzero(np.diff(np.concatenate([[0], column, [0]])))
        edges += ((left + x) * height + top + flips).tolist()
    return edges


@st.composite
def placed_crops(draw):
    """Draws masks of one image, each a crop placed somewhere in it: (full masks, their runs)."""
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    masks, edges, splits = [], [], [0]
    for _ in range(draw(st.integers(0, 4))):
        h, w = draw(st.integers(1, height)), draw(st.integers(1, width))
        top, left = draw(st.integers(0, height - h)), draw(st.integers(0, width - w))
        crop = draw(arrays(np.uint8, (h, w), elements=st.integers(0, 1), fill=st.integers(0, 1)))
        mask = np.zeros((height, width), np.uint8)
        mask[top : top + h, left : left + w] = crop
        masks.append(mask)
        edges += runs_of_crop(crop, top, left, height)
        splits.append(len(edges))
    return masks, Runs(np.array(edges, np.int64), np.array(splits, np.int64), (height, width))


def reference(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def check(masks, runs):
    expected = [reference(mask) for mask in masks]
    encoded = encode(runs)
    assert [m["counts"].encode() for m in encoded] == [m["counts"] for m in expected]
    assert all(m["size"] == list(runs.size) for m in encoded)
    boxes = tight_boxes(runs)
    for mask, box in zip(masks, boxes, strict=True):
        ys, xs = np.nonzero(mask)
        tight = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1] if len(xs) else [0, 0, 0, 0]
        assert box.tolist() == tight
    assert (covered_pixels([m["counts"] for m in expected]) == runs.size[0] * runs.size[1]).all()


@settings(deadline=None, max_examples=300)
@given(placed_crops())
def test_strings_and_boxes_equal_pycocotools(placed):
    check(*placed)


def test_strings_of_full_empty_and_one_pixel_masks():
    for height, width in [(1, 1), (7, 5), (1, 300), (300, 1), (200, 300)]:
        full, empty = np.ones((height, width), np.uint8), np.zeros((height, width), np.uint8)
        edges = runs_of_crop(full, 0, 0, height)
        check(
            [empty, full, empty, empty],
            Runs(np.array(edges), np.array([0, 0, len(edges), *[len(edges)] * 2]), full.shape),
        )


def test_strings_of_large_counts():
    size = (2000, 3000)
    edges = np.array([5, 4_999_999, 5_000_000, 5_999_990])
    mask = np.zeros(size[0] * size[1], np.uint8)
    mask[5:4_999_999] = mask[5_000_000:5_999_990] = 1
    check([mask.reshape(size[::-1]).T], Runs(edges, np.array([0, 4]), size))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.lists(st.integers(0, 2**31), min_size=1, max_size=9), min_size=1, max_size=4), st.data())
def test_covered_pixels_of_sound_and_broken_strings(counts, data):
    texts = [coco_mask.frPyObjects({"size": [1, 1], "counts": runs}, 1, 1)["counts"] for runs in counts]
    sums = [sum(runs) for runs in counts]
    assert covered_pixels(texts).tolist() == sums
    broken = data.draw(st.integers(0, len(texts) - 1))
    for wrong in (b"", texts[broken][:-1] + b"o", texts[broken] + b"\x7f", b"ooooooooooooooooooooo0", b"O"):
        mixed = covered_pixels([*texts[:broken], wrong, *texts[broken + 1 :]]).tolist()
        assert mixed == [*sums[:broken], -1, *sums[broken + 1 :]]


def test_covered_pixels_tells_a_string_cut_between_counts():
    rng = np.random.default_rng(0)
    text = reference(cv2.GaussianBlur(rng.normal(size=(60, 80)), (0, 0), 3) > 0)["counts"]
    assert covered_pixels([text, text[: len(text) // 2]]).tolist()[0] == 4800
    assert all(covered_pixels([text[:end]])[0] != 4800 for end in range(len(text)))


def test_masks_to_results():
    rng = np.random.default_rng(3)
    original, resized = (333, 500), resized_size(333, 500, 870)
    windows = some_windows(rng, resized, 40)
    logits = smooth_logits(rng, len(windows))
    logits[4] = logits[9] = -9.0
    scores = np.linspace(1, 0, len(windows), dtype=np.float32)
    scores[-3:] = -1  # windows that do not exist
    kwargs = {"strides": STRIDES, "resized": resized, "original": original, "threshold": 0.2}
    result = masks_to_results(scores, windows, logits, **kwargs)
    masks = list(drawn(paste(windows, logits, **kwargs)))
    expected = [k for k, mask in enumerate(masks) if mask.any() and scores[k] >= 0]
    assert result.kept.tolist() == expected and result.empty == len(windows) - 3 - len(expected) >= 2
    assert result.scores.tolist() == scores[expected].tolist()
    for k, mask, box in zip(result.kept, result.segmentations, result.boxes, strict=True):
        rle = reference(masks[k])
        assert mask == {"size": [333, 500], "counts": rle["counts"].decode()}
        assert box.tolist() == coco_mask.toBbox(rle).tolist()


def test_masks_to_results_of_nothing():
    result = masks_to_results(
        np.full(3, -1, np.float32),
        np.zeros((3, 3), np.int32),
        np.zeros((3, 40, 40), np.float32),
        strides=STRIDES,
        resized=(64, 64),
        original=(64, 64),
        threshold=0.2,
    )
    assert (result.segmentations, result.empty, result.boxes.shape) == ([], 0, (0, 4))
