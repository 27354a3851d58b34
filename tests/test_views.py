"""Views of an image: scales, mirror images and padded shapes."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmask_jax.data.batches import pack_inference_batch
from fastmask_jax.geometry import resized_size
from fastmask_jax.inference.views import Buckets, views_of

SHAPES = [(872, 872), (656, 872), (872, 656)]


def test_the_smallest_bucket_that_holds_the_image_is_chosen():
    buckets = Buckets(SHAPES, 870)
    assert buckets.choose((480, 640), 870) == SHAPES[1]
    assert buckets.choose((640, 480), 870) == SHAPES[2]
    assert buckets.choose((640, 640), 870) == SHAPES[0]


def test_another_scale_has_the_same_buckets_scaled():
    """872 * 435 / 870 = 436; 656 * 435 / 870 = 328."""
    buckets = Buckets(SHAPES, 870)
    assert buckets.choose((480, 640), 435) == (328, 436)
    assert buckets.choose((640, 640), 435) == (436, 436)


def test_an_image_that_no_bucket_holds_gets_a_shape_of_its_own():
    assert Buckets([(32, 96)], 96).choose((72, 96), 96) == (128, 128)
    assert Buckets([(32, 96)], 96).choose((30, 96), 96) == (32, 96)


@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    long_edge=st.integers(4, 2000),
    shapes=st.lists(st.tuples(st.integers(4, 1300), st.integers(4, 1300)), max_size=4),
)
def test_every_image_fits_its_shape(height, width, long_edge, shapes):
    shape = Buckets(shapes, 870).choose((height, width), long_edge)
    resized = resized_size(height, width, long_edge)
    assert shape[0] >= resized[0] and shape[1] >= resized[1]
    assert shape[0] % 4 == 0 and shape[1] % 4 == 0


@pytest.mark.parametrize("flip", [False, True])
def test_views_are_resized_copies(flip):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    views = views_of(pixels, Buckets([(64, 96)], 96), (48, 96), flip)
    assert [(view.long_edge, view.mirrored) for view in views] == (
        [(48, False), (48, True), (96, False), (96, True)] if flip else [(48, False), (96, False)]
    )
    for view in views:
        height, width = resized_size(60, 90, view.long_edge)
        want = cv2.resize(pixels.astype(np.float32), (width, height))
        np.testing.assert_array_equal(view.image, want[:, ::-1] if view.mirrored else want)


def test_a_batch_is_padded_with_zeros():
    images = [np.full((8, 12, 3), 7, np.float32), np.full((4, 16, 3), 9, np.float32)]
    batch = pack_inference_batch(images, (12, 16), 3)
    assert batch.size.tolist() == [[8, 12], [4, 16], [4, 4]]
    for row, image in enumerate(images):
        height, width = image.shape[:2]
        np.testing.assert_array_equal(batch.image[row, :height, :width], image)
    assert batch.image.sum() == 8 * 12 * 3 * 7 + 4 * 16 * 3 * 9
