"""Label maps compared with a loop over pixels, and their files read by PIL and OpenCV."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from fastmask_jax.masks.drawing import distinct_colors
from fastmask_jax.masks.label_map import label_map, label_picture


def encoded(bitmaps):
    rles = [coco_mask.encode(np.asfortranarray(bitmap, np.uint8)) for bitmap in bitmaps]
    return [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in rles]


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_every_pixel_goes_to_the_best_then_smallest_then_first(seed, height, width, count):
    rng = np.random.default_rng(seed)
    bitmaps = rng.random((count, height, width)) < rng.random((count, 1, 1))
    scores = rng.integers(0, 3, count).astype(np.float32) / 4
    expected = np.zeros((height, width), np.int32)
    for y in range(height):
        for x in range(width):
            here = [(-scores[k], bitmaps[k].sum(), k) for k in range(count) if bitmaps[k, y, x]]
            if here:
                expected[y, x] = min(here)[2] + 1
    labels = label_map(encoded(bitmaps), scores, (height, width))
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize(("most", "mode"), [(0, "P"), (255, "P"), (256, "I;16"), (1000, "I;16")])
def test_files_hold_the_labels(tmp_path, most, mode):
    labels = np.random.default_rng(0).integers(0, most + 1, (20, 30))
    labels[0, 0] = most
    path = tmp_path / "labels.png"
    label_picture(labels).save(path)
    with Image.open(path) as picture:
        assert picture.mode == mode
        np.testing.assert_array_equal(np.asarray(picture), labels)
        if mode == "P":
            drawn = np.asarray(picture.convert("RGB"))
            assert not drawn[labels == 0].any()
            for label in range(1, most + 1):
                assert (drawn[labels == label] == distinct_colors(most)[label - 1]).all()
    if mode != "P":
        np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), labels)


@pytest.mark.parametrize("label", [-1, 1 << 16])
def test_labels_that_no_file_holds_are_refused(label):
    with pytest.raises(ValueError, match="holds labels from 0 to 65535"):
        label_picture(np.full((2, 2), label))
