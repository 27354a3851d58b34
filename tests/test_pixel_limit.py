"""Images of too many pixels are refused by their header, and damaged images print nothing."""

import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from fastmask_jax.data.coco.image_check import check
from fastmask_jax.data.coco.instances import CocoImage, CocoSplit
from fastmask_jax.data.coco.problem_report import Problem, ProblemReport
from fastmask_jax.data.exif import orientation_of
from fastmask_jax.data.image_file import decode_image
from fastmask_jax.data.image_header import MAX_PIXELS, TooManyPixels, read_header
from fastmask_jax.data.native_stderr import without_lines
from fastmask_jax.errors import InvalidInput
from fastmask_jax.inference.image_input import read_image
from tests.tiny import ROOT

SIDE = 60_000  # a claim of 3.6 gigapixels
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
KINDS = {".jpg": "JPEG", ".png": "PNG", ".tiff": "TIFF", ".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF", ".avif": "AVIF"}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes = b"", behind: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + behind + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    data = bytearray(cv2.imencode(".jpg", PIXELS)[1].tobytes())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def patched(data: bytes, at: int, code: str, *values: int) -> bytes:
    data = bytearray(data)
    struct.pack_into(code, data, at, *values)
    return bytes(data)


def encoded(suffix: str, pixels: np.ndarray = PIXELS) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def tiff() -> bytes:
    file = io.BytesIO()
    Image.new("1", (8, 8)).save(file, "TIFF")
    data = bytearray(file.getvalue())
    (start,) = struct.unpack_from("<I", data, 4)
    for entry in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        if struct.unpack_from("<H", data, entry)[0] in (256, 257):
            struct.pack_into("<HII", data, entry + 2, 4, 1, SIDE)
    return bytes(data)


def icon() -> bytes:
    inside = png(SIDE, SIDE)
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inside), 22) + inside


CLAIMS = {
    "png": png(SIDE, SIDE),
    "jpeg": jpeg(SIDE, SIDE),
    "bmp": patched(encoded(".bmp"), 18, "<ii", SIDE, SIDE),
    "tiff": tiff(),
    "gif": patched(encoded(".gif"), 6, "<HH", SIDE, SIDE),
    "ppm": b"P6\n%d %d\n255\n" % (SIDE, SIDE) + bytes(100),
    "pfm": b"PF\n%d %d\n-1.0\n" % (SIDE, SIDE) + bytes(100),
    "radiance": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n" % (SIDE, SIDE) + bytes(100),
    "icon": icon(),
}


@pytest.mark.parametrize("kind", CLAIMS)
def test_a_small_file_of_gigantic_sides_is_refused_before_it_is_decoded(kind, tmp_path):
    path = tmp_path / "photo"
    path.write_bytes(CLAIMS[kind])
    tracemalloc.start()
    with pytest.raises(InvalidInput, match=rf"photo: an image of {SIDE}x{SIDE} pixels has more than max_pixels=") as e:
        read_image(path)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20  # memory of NumPy and Pillow
    tracemalloc.stop()
    assert "\n" not in str(e.value)
    assert orientation_of(path) == 1


@pytest.mark.parametrize("suffix", KINDS)
def test_the_limit_is_on_height_times_width(suffix):
    data = encoded(suffix)
    header = read_header(data)
    assert header == (KINDS[suffix], 12, 20) and decode_image(data, max_pixels=240).shape == (12, 20, 3)
    assert decode_image(data, max_pixels=None).shape == (12, 20, 3)
    with pytest.raises(TooManyPixels, match="max_pixels=239: shrink it, or raise the limit"):
        decode_image(data, max_pixels=239)


def test_sizes_beyond_pillows_own_limit_are_known():
    """Pillow's limit is 179 million pixels, and it warns from half of that."""
    for side in (10_000, 20_000):
        assert read_header(png(side, side)) == ("PNG", side, side)
        with pytest.raises(TooManyPixels):
            decode_image(png(side, side))
    assert MAX_PIXELS < 10_000**2


def test_a_pil_image_is_judged_before_it_is_decoded(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(png(8_000, 9_000))
    with Image.open(path) as image, pytest.raises(ValueError, match="9000x8000 pixels has more than max_pixels"):
        read_image(image)
    Image.fromarray(PIXELS).save(path)
    with Image.open(path) as image, pytest.raises(ValueError, match="max_pixels=239"):
        read_image(image, max_pixels=239)
    assert read_image(PIXELS, max_pixels=1).shape == PIXELS.shape  # an array is decoded already


def test_prepare_counts_a_large_image_and_goes_on(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(".png"))
    (tmp_path / "b.png").write_bytes(png(SIDE, SIDE))
    images = [CocoImage(n, name, tmp_path / name, None) for n, name in enumerate(("a.png", "b.png"))]
    split = CocoSplit(images, ProblemReport())
    assert [one.image.file_name for one in check(split, workers=0)] == ["a.png"]
    assert split.report.counts == {Problem.IMAGE_LARGE: 1}
    assert "b.png: an image of 60000x60000 pixels" in split.report.summary()
    split = CocoSplit(images[:1], ProblemReport())
    assert not check(split, workers=0, max_pixels=239) and split.report.counts == {Problem.IMAGE_LARGE: 1}


def test_an_orientation_behind_the_pixels_of_a_png():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = png(4, 2, b"".join(b"\0" + bytes(12) for _ in range(2)), chunk(b"eXIf", exif.tobytes()[6:]))
    assert orientation_of(data) == 6 and decode_image(data, "apply").shape == (4, 2, 3)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("pixels", [PIXELS, PIXELS[:, :, 0]])
def test_pillow_and_opencv_read_the_same_pixels(suffix, pixels):
    data = encoded(suffix, pixels)
    np.testing.assert_array_equal(decode_image(data), cv2.imdecode(np.frombuffer(data, np.uint8), 1)[:, :, ::-1])


def test_postscript_is_no_image(tmp_path):
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"
    assert read_header(data) is None
    with pytest.raises(ValueError, match="no supported format"):
        decode_image(data)


DAMAGED = """
import numpy as np, cv2, warnings
from fastmask_jax.data.image_file import decode_image
rng = np.random.default_rng(0)
pixels = cv2.GaussianBlur(rng.integers(0, 256, (40, 50, 3), np.uint8), (9, 9), 3)
for suffix in (".jpg", ".png", ".tiff", ".jp2", ".webp", ".bmp", ".gif", "deep"):
    deep = suffix == "deep"
    sound = cv2.imencode(".png" if deep else suffix, pixels.astype(np.uint16) * 257 if deep else pixels)[1].tobytes()
    for _ in range(40):
        data = bytearray(sound)
        for at in rng.integers(len(data), size=3):
            data[at] = rng.integers(256)
        try:
            decode_image(bytes(data))
        except ValueError as error:
            assert len(str(error).splitlines()) == 1
"""


def test_damaged_images_print_nothing():
    """Not even libpng, libjpeg, OpenCV and OpenJPEG, which write directly to stderr."""
    done = subprocess.run([sys.executable, "-c", DAMAGED], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_other_lines_on_stderr_stay(capfd):
    with without_lines((b"libpng ",)):
        os.write(2, b"libpng error: bad\nours\nlibpng warning: iCCP\n")
        print("of Python", file=sys.stderr)
    assert sorted(capfd.readouterr().err.splitlines()) == ["of Python", "ours"]
