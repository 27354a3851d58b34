"""Decodes image files to RGB pixels."""

import importlib.util
import io
import os
from contextlib import nullcontext

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from fastmask_jax.data import jpeg_end
from fastmask_jax.data.exif import Exif, as_stored, check_exif, orientation_of, upright
from fastmask_jax.data.image_header import (
    MAX_PIXELS,
    PNG,
    RADIANCE,
    TIFF,
    check_pixels,
    is_heif,
    open_with_pillow,
    read_header,
    register_heif,
    tiff_tags,
)
from fastmask_jax.data.large_image import in_memory
from fastmask_jax.data.native_stderr import without_lines
from fastmask_jax.data.pixel_depth import to_uint8
from fastmask_jax.data.tiff_layout import is_negative, needs_gdal
from fastmask_jax.errors import InvalidInput

SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".ppm", ".pgm"),
        *(".pbm", ".pnm", ".gif", ".avif", ".heic", ".heif"),
    }
)  # of image files that `decode_image` reads
_AS_STORED = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
_BY_PILLOW = ("JPEG", "MPO", "PNG", "PPM")  # without printing, and by the largest value that a PPM header states
_CONVERTED = ("CMYK", "YCbCr", "LAB", "HSV")
_PRINTED = (  # beginnings of messages of libpng, libjpeg and libtiff
    *(b"libpng ", b"Corrupt JPEG data", b"Premature end of JPEG", b"Invalid SOS", b"Unsupported marker"),
    *(b"Unknown Adobe color", b"Inconsistent progression", b"Warning: unknown JFIF"),
    # libtiff's begin with its function, or with the file name that Pillow passes to it.
    *(b"TIFF", b"_TIFF", b"LZW", b"ZIP", b"Fax", b"PackBits", b"Predict", b"JPEG", b"OJPEG", b"Pixar", b"Log"),
    *(b"Thunder", b"tempfile.tif"),
)

if "OPENCV_LOG_LEVEL" not in os.environ:  # damaged images raise exceptions: messages on stderr are redundant
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def decode_image(data: bytes, exif: Exif = "ignore", max_pixels: int | None = MAX_PIXELS) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes an image file to RGB; the format is detected from the content, not from the name.

    Supports JPEG, PNG, TIFF, WebP, AVIF, GIF, BMP and the other formats of `image_header`; gray, CMYK and palette
    images; alpha, which is dropped; 16-bit and floating-point values (see `pixel_depth.to_uint8`); and HEIC if
    pillow-heif is installed.

    Args:
      data: the bytes of the file.
      exif: "ignore" returns the pixels as stored, which COCO's annotations refer to. "apply" rotates and mirrors them
        according to the file's EXIF orientation.
      max_pixels: maximum H · W, checked in the file's header before pixels are decoded; None: no limit.

    Raises:
      TooManyPixels: the image has more than `max_pixels`.
      ValueError: the bytes are not a complete image, or its values have no known range.
    """
    check_exif(exif)
    header = read_header(data)
    if header is not None:
        check_pixels(header.height, header.width, max_pixels)
    # Some versions of OpenCV fill truncated JPEGs with gray.
    truncated = data.startswith(jpeg_end.START) and not jpeg_end.has_jpeg_end(data)
    pixels = None
    tags = tiff_tags(data) if data.startswith(TIFF) else None
    needs = "" if tags is None else needs_gdal(tags)
    if header is not None and not truncated and not needs:
        pixels = _by_opencv_or_pillow(as_stored(data), header.format)
        if pixels is not None:
            pixels = to_uint8(pixels)
            if tags is not None and is_negative(tags):
                pixels = 255 - pixels
    if pixels is None and tags is not None:
        pixels = _by_gdal(data, needs)
    if pixels is None:
        why = f" ({needs})" if needs else ""
        if is_heif(data) and not register_heif():
            why = " (HEIC needs pip install pillow-heif)"
        raise InvalidInput(f"an image of {len(data)} bytes is truncated or of no supported format{why}")
    return upright(pixels, orientation_of(data)) if exif == "apply" else np.ascontiguousarray(pixels)


def _is_deep_png(data: bytes) -> bool:
    """Returns whether a PNG has 16 bits per channel and color or alpha: Pillow reads only 8 of these bits."""
    depth, kind = data[24:26] if data.startswith(PNG) and len(data) >= 26 else (0, 0)
    return depth == 16 and kind != 0


def _by_opencv_or_pillow(data: bytes, format_: str) -> Shaped[np.ndarray, "H W 3"] | None:
    """Decodes RGB pixels of any depth, by the first decoder that can; None if neither can."""
    pixels = _by_pillow(data) if format_ in _BY_PILLOW and not _is_deep_png(data) else None
    if pixels is None:
        pixels = _by_opencv(data)
    return _by_pillow(data, any_mode=True) if pixels is None else pixels


def _by_opencv(data: bytes) -> Shaped[np.ndarray, "H W 3"] | None:
    """Decodes RGB pixels of any depth; None if OpenCV cannot."""
    bytes_ = np.frombuffer(data, np.uint8)
    image = None
    prints = data.startswith((jpeg_end.START, PNG))  # for TIFF, OpenCV logs the messages of libtiff
    try:
        with without_lines(_PRINTED) if prints else nullcontext():
            if data.startswith(TIFF):  # OpenCV cannot convert gray floating-point images to color
                image = cv2.imdecode(bytes_, cv2.IMREAD_UNCHANGED)
            if image is None or image.dtype.kind != "f" or image.ndim != 2:
                image = cv2.imdecode(bytes_, _AS_STORED)
    except cv2.error:  # such as too many pixels
        return None
    if image is None:
        return None
    if data.startswith(RADIANCE):
        image = np.clip(image, 0, 1)
    return np.repeat(image[:, :, None], 3, 2) if image.ndim == 2 else image[:, :, ::-1]


def _by_pillow(data: bytes, any_mode: bool = False) -> Shaped[np.ndarray, "H W 3"] | None:
    """Decodes RGB pixels; None if Pillow cannot, or, without `any_mode`, if it converts colors unlike OpenCV."""
    try:
        image = open_with_pillow(io.BytesIO(data))
        if image is None or not (any_mode or image.mode not in _CONVERTED):
            return None
        with image, without_lines(_PRINTED) if data.startswith(TIFF) else nullcontext():
            return rgb_of_pillow(image)
    except MemoryError:
        raise
    except Exception:  # Pillow's plugins raise errors of many kinds for damaged data
        return None


def _by_gdal(data: bytes, needs: str) -> UInt8[np.ndarray, "H W 3"] | None:
    """Decodes the RGB pixels of a TIFF; None if GDAL cannot.

    Raises:
      ValueError: rasterio is not installed, and `needs` says why it must be; or the values have no known range.
    """
    if importlib.util.find_spec("rasterio") is None:
        if needs:
            raise InvalidInput(f"a TIFF image with {needs} needs rasterio: pip install 'fastmask_jax[large]'")
        return None
    with in_memory(data) as image:
        return None if image is None else np.asarray(image)


def rgb_of_pillow(image: Image.Image) -> Shaped[np.ndarray, "H W 3"]:
    """Returns the pixels of a PIL image of any mode as RGB, without changing their depth."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):  # convert("RGB") would clip them at 255
        gray = np.asarray(image)
        return np.repeat(gray[:, :, None], 3, axis=2)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
