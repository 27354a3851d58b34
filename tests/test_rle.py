"""Run-length strings and boxes of runs, compared with pycocotools on bitmaps."""

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from fastmask_jax.geometry import resized_size
from fastmask_jax.masks.paste import Runs, paste
from fastmask_jax.masks.rle import decode_counts, encode, masks_to_results, measure, tight_boxes
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
    measures = measure([m["counts"] for m in expected], runs.size)
    assert measures.sound.all() and measures.areas.tolist() == [mask.sum() for mask in masks]
    np.testing.assert_array_equal(measures.boxes, boxes)


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


def text_of(counts):
    """Encodes lengths by characters; pycocotools reserves too little memory for lengths of 2**29 and more."""
    text = b""
    for n, count in enumerate(counts):
        value = count - counts[n - 2] if n > 2 else count
        while True:
            low, value = value & 31, value >> 5
            done = value == (-1 if low & 16 else 0)
            text += bytes([48 + low + (0 if done else 32)])
            if done:
                break
    return text


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(st.integers(0, 2**35), min_size=1, max_size=9), max_size=300))
def test_counts_of_any_strings(counts):
    decoded = decode_counts([text_of(runs) for runs in counts])
    assert decoded.sound.all() and len(decoded.sound) == len(counts)
    assert [part.tolist() for part in np.split(decoded.counts, decoded.splits[1:-1])] == (counts or [[]])


@settings(deadline=None, max_examples=200)
@given(st.lists(st.lists(st.integers(0, 2**31), min_size=1, max_size=9), min_size=1, max_size=4), st.data())
def test_broken_strings_are_told_from_sound_ones(counts, data):
    texts = [text_of(runs) for runs in counts]
    for text, runs in zip(texts, counts, strict=True):
        if max(runs) < 2**29:
            assert text == coco_mask.frPyObjects({"size": [1, 1], "counts": runs}, 1, 1)["counts"]
    k = data.draw(st.integers(0, len(texts) - 1))
    for wrong in (b"", texts[k][:-1] + b"o", texts[k] + b"\x7f", b"ooooooooooooooooooooo0", b"O"):
        decoded = decode_counts([*texts[:k], wrong, *texts[k + 1 :]])
        assert decoded.sound.tolist() == [n != k for n in range(len(texts))]
        parts = np.split(decoded.counts, decoded.splits[1:-1])
        assert [part.tolist() for part in parts] == [*counts[:k], [], *counts[k + 1 :]]


def test_measures_of_strings_that_do_not_cover_the_image():
    rng = np.random.default_rng(0)
    masks = [cv2.GaussianBlur(rng.normal(size=(60, 80)), (0, 0), 3) > 0 for _ in range(3)]
    texts = [reference(mask)["counts"] for mask in masks]
    for end in range(len(texts[1])):
        measures = measure([texts[0], texts[1][:end], texts[2]], (60, 80))
        assert measures.sound.tolist() == [True, False, True]
        assert measures.areas.tolist() == [masks[0].sum(), 0, masks[2].sum()]
        assert measures.boxes[[0, 2]].tolist() == coco_mask.toBbox([reference(masks[0]), reference(masks[2])]).tolist()
    assert measure([], (60, 80)).boxes.shape == (0, 4)


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
