"""Image files as bytes → RGB pixels."""

import importlib
import io

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from fastmask_jax.data import jpeg_end
from fastmask_jax.data.exif import Exif, as_stored, check_exif, orientation_of, upright
from fastmask_jax.data.pixel_depth import to_uint8
from fastmask_jax.errors import InvalidInput

_TIFF = (b"II*\0", b"MM\0*")
_TOO_LARGE = (
    "an image of too many pixels to be decoded at once: the option tile, as in tile=1024, reads it in windows "
    "(pip install 'fastmask_jax[large]')"
)
_RADIANCE = b"#?"  # files of light, which may be above 1
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AS_STORED = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION


def decode_image(data: bytes, exif: Exif = "ignore") -> UInt8[np.ndarray, "H W 3"]:
    """Decodes an image file to RGB; its content says which format it is, not its name.

    JPEG, PNG, TIFF, WebP, AVIF and what else OpenCV or Pillow reads, gray, CMYK, palette, alpha (dropped), 16 bits and
    numbers with a point too (see `pixel_depth.to_uint8`); HEIC if pillow-heif is installed.

    Args:
      data: the bytes of the file.
      exif: "ignore" takes the pixels as they are stored: COCO's annotations are made so. "apply" turns and mirrors them
        as the file's EXIF orientation asks for.

    Raises:
      ValueError: the bytes are no complete image, or its values have no known range.
    """
    check_exif(exif)
    # Some versions of OpenCV fill up a truncated JPEG with gray.
    truncated = data.startswith(jpeg_end.START) and not jpeg_end.has_jpeg_end(data)
    pixels = None
    if data and not truncated:
        stored = as_stored(data)
        pixels = _by_opencv(stored)
        if pixels is None:
            pixels = _by_pillow(stored)
    if pixels is None:
        needs = " (HEIC needs pip install pillow-heif)" if _is_heif(data) and not _register_heif() else ""
        raise InvalidInput(f"an image of {len(data)} bytes is truncated or of no supported format{needs}")
    pixels = to_uint8(pixels)
    return upright(pixels, orientation_of(data)) if exif == "apply" else np.ascontiguousarray(pixels)


def _by_opencv(data: bytes) -> Shaped[np.ndarray, "H W 3"] | None:
    """Decodes RGB pixels of any depth; None if OpenCV cannot."""
    bytes_ = np.frombuffer(data, np.uint8)
    image = None
    try:
        if data.startswith(_TIFF):  # of which OpenCV makes no color image if it is gray and has numbers with a point
            image = cv2.imdecode(bytes_, cv2.IMREAD_UNCHANGED)
        if image is None or image.dtype.kind != "f" or image.ndim != 2:
            image = cv2.imdecode(bytes_, _AS_STORED)
    except cv2.error:  # such as too many pixels
        return None
    if image is None:
        return None
    if data.startswith(_RADIANCE):
        image = np.clip(image, 0, 1)
    return np.repeat(image[:, :, None], 3, 2) if image.ndim == 2 else image[:, :, ::-1]


def _by_pillow(data: bytes) -> Shaped[np.ndarray, "H W 3"] | None:
    """Decodes RGB pixels of any depth; None if Pillow cannot."""
    if _is_heif(data) and not _register_heif():
        return None
    try:
        with Image.open(io.BytesIO(data)) as image:
            return rgb_of_pillow(image)
    except Image.DecompressionBombError:
        raise InvalidInput(_TOO_LARGE) from None
    except (OSError, SyntaxError, ValueError, EOFError):
        return None


def rgb_of_pillow(image: Image.Image) -> Shaped[np.ndarray, "H W 3"]:
    """Returns the pixels of a PIL image of any mode as RGB, of the depth that they have."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):  # convert("RGB") would clip them at 255
        gray = np.asarray(image)
        return np.repeat(gray[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))


def _is_heif(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS


def _register_heif() -> bool:
    """Enables HEIC in Pillow if pillow-heif is installed; returns whether it is."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return True
