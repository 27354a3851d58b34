"""Complete and truncated JPEGs, with and without other data after them."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fastmask_jax.data.image_file import decode_image
from fastmask_jax.data.jpeg_end import has_jpeg_end

NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def opencv(*options):
    return cv2.imencode(".jpg", NOISE, options)[1].tobytes()


def pillow(**options):
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, "JPEG", **options)
    return file.getvalue()


THUMBNAIL = opencv(cv2.IMWRITE_JPEG_QUALITY, 20)
JPEGS = {
    "baseline": opencv(),
    "progressive": opencv(cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restart markers": opencv(cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
    "gray": cv2.imencode(".jpg", NOISE[..., 0])[1].tobytes(),
    "thumbnail": pillow(exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + THUMBNAIL),
    "comment": pillow(comment=b"\xff\xd9 \xff\xd8 \xff\xda"),
    "fill bytes": opencv()[:-2] + b"\xff\xff\xff\xd9",
}
TAILS = {
    "nothing": b"",
    "end": b"\xff\xd9",
    "another picture": THUMBNAIL,
    "the begin of another": THUMBNAIL[:100],
    "scan": b"\0\0\0\x18ftypmp42" + b"\xff\xda\xff\xd8" * 9,
    "video": np.random.default_rng(1).bytes(100_000),
}


def test_the_files_hold_what_they_are_named_after():
    scans = {name: data.count(b"\xff\xda") for name, data in JPEGS.items()}
    assert scans["baseline"] == 1 and scans["progressive"] > 1 and scans["thumbnail"] == 2
    assert b"\xff\xd0" in JPEGS["restart markers"] and b"\xff\xd0" not in JPEGS["baseline"]


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("name", JPEGS)
def test_what_follows_a_complete_jpeg_does_not_matter(name, tail):
    data = JPEGS[name]
    assert has_jpeg_end(data + TAILS[tail])
    np.testing.assert_array_equal(decode_image(data + TAILS[tail]), decode_image(data))


@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_cut_anywhere_is_truncated(name):
    data = JPEGS[name]
    for length in range(2, len(data)):
        assert not has_jpeg_end(data[:length]), length
    for length in (3, len(data) // 3, len(data) - 1):
        with pytest.raises(ValueError, match="truncated"):
            decode_image(data[:length])


@given(st.sampled_from(sorted(JPEGS)), st.binary(max_size=300))
def test_any_bytes_may_follow(name, tail):
    assert has_jpeg_end(JPEGS[name] + tail)


@given(st.binary(max_size=300))
def test_any_bytes_have_an_answer(data):
    assert has_jpeg_end(b"\xff\xd8" + data) in (True, False)
