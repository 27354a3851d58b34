"""Images of more than 8 bits, in formats that OpenCV cannot read, and with misleading suffixes."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from fastmask_jax.data.image_file import decode_image
from fastmask_jax.data.pixel_depth import to_uint8
from fastmask_jax.inference.image_input import read_image

RGB = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)
RGB[0, 0] = 255


def encoded(array: np.ndarray, suffix: str) -> bytes:
    return cv2.imencode(suffix, array[..., ::-1] if array.ndim == 3 else array)[1].tobytes()


@pytest.mark.parametrize("bits", [9, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("gray", [False, True])
def test_bits_of_cameras_in_files_of_16_bits(bits, suffix, gray):
    eight = RGB[:, :, 0] if gray else RGB
    deep = (eight.astype(np.uint16) << (bits - 8)) + np.uint16((1 << (bits - 8)) - 1)
    np.testing.assert_array_equal(decode_image(encoded(deep, suffix)), np.dstack([eight] * 3) if gray else RGB)


@pytest.mark.parametrize("scale", [1, 255])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("gray", [False, True])
def test_numbers_with_a_point(scale, kind, gray):
    eight = RGB[:, :, 0] if gray else RGB
    data = encoded((eight / 255 * scale).astype(kind), ".tiff")
    np.testing.assert_array_equal(decode_image(data), np.dstack([eight] * 3) if gray else RGB)
    if gray and kind is np.float32:
        pillow = Image.fromarray((eight / 255 * scale).astype(kind))
        np.testing.assert_array_equal(read_image(pillow)[:, :, 0], eight)


@pytest.mark.parametrize("wrong", [-0.5, 256.0, np.nan, np.inf])
def test_numbers_of_no_known_range_are_refused(wrong, tmp_path):
    values = np.full((4, 5, 3), 0.5, np.float32)
    values[1, 2, 0] = wrong
    (tmp_path / "field.tif").write_bytes(encoded(values, ".tiff"))
    with pytest.raises(
        ValueError, match=r"field\.tif: pixels are float32 from .*: scale them to 0 \.\.\. 255"
    ) as error:
        read_image(tmp_path / "field.tif")
    assert "\n" not in str(error.value)


def test_numbers_a_little_above_1_are_clipped():
    values = np.array([0, 0.25, 1, 1.02, 1.99], np.float32)
    np.testing.assert_array_equal(to_uint8(values), [0, 64, 255, 255, 255])
    np.testing.assert_array_equal(to_uint8(np.array([0.5, 2.01, 254.6])), [0, 2, 255])


@pytest.mark.parametrize("most", [1, 15, 100, 255, 1023, 65535])
def test_the_largest_value_of_a_netpbm_header_is_white(most):
    levels = np.array([[0, 1, most // 2, most]])
    body = levels.astype(">u2" if most > 255 else "u1").tobytes()
    expected = np.rint(levels / most * 255)
    assert np.abs(decode_image(b"P5 4 1 %d\n" % most + body)[:, :, 0] - expected).max() <= 1
    text = " ".join(str(v) for v in levels[0] for _ in range(3)).encode()
    assert np.abs(decode_image(b"P3 4 1 %d\n" % most + text)[:, :, 2] - expected).max() <= 1


def test_whole_numbers_of_any_type():
    for kind in (np.int16, np.int32, np.int64, np.uint32):
        np.testing.assert_array_equal(to_uint8(RGB.astype(kind)), RGB)
        np.testing.assert_array_equal(to_uint8(RGB.astype(kind) * 16), RGB)
    np.testing.assert_array_equal(to_uint8(np.array([True, False])), [255, 0])
    with pytest.raises(ValueError, match="int16 from -3 to 7"):
        to_uint8(np.array([-3, 7], np.int16))


@pytest.mark.parametrize("suffix", [".jpg", ".jfif", ".png", ".tif", ".txt", ""])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "AVIF", "GIF", "BMP", "PPM", "ICO", "TGA"])
def test_the_content_says_the_format(tmp_path, suffix, kind):
    pixels = np.repeat(np.repeat(RGB[:4, :4], 8, 0), 8, 1)
    if kind == "GIF":
        pixels = np.asarray(Image.fromarray(pixels).quantize(256).convert("RGB"))
    path = tmp_path / f"image{suffix}"
    Image.fromarray(pixels).save(path, kind, **({"lossless": True} if kind == "WEBP" else {}))
    difference = np.abs(read_image(path).astype(int) - pixels)
    assert difference.mean() < 12 if kind == "AVIF" else difference.max() == 0


def test_modes_that_opencv_does_not_read(tmp_path):
    whole = Image.fromarray(RGB[:, :, 0].astype(np.int32))
    whole.save(tmp_path / "i.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "i.tif")[:, :, 1], RGB[:, :, 0])


def test_heic_is_read_or_says_what_it_needs(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(100))
    try:
        import pillow_heif
    except ImportError:
        with pytest.raises(ValueError, match=r"photo\.jpg: .*HEIC needs pip install pillow-heif"):
            read_image(path)
        return
    with pytest.raises(ValueError, match=r"photo\.jpg: .*truncated or of no supported format$"):
        read_image(path)
    pixels = np.repeat(np.repeat(RGB[:4, :4], 16, 0), 16, 1)
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(file, quality=-1)
    assert np.abs(decode_image(file.getvalue()).astype(int) - pixels).mean() < 12


def test_more_pixels_than_can_be_decoded_at_once_have_a_remedy():
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "png")
    with pytest.raises(ValueError, match=r"more than max_pixels=63: .*the option tile, .*\[large\]"):
        decode_image(file.getvalue(), max_pixels=63)
