"""Decodes uploaded files to RGB pixels, or explains in one line why it cannot."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fastmask_jax.data.image_file import decode_image
from fastmask_jax.data.image_header import read_header
from fastmask_jax.errors import InvalidInput

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "TIFF")
MOST_BYTES = 64 << 20
MOST_PIXELS = 32_000_000  # limits memory: there are many masks, each as large as its image


def read_upload(path: str | os.PathLike, most_pixels: int = MOST_PIXELS) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes an image file to RGB pixels, upright: unlike in datasets, EXIF orientation is applied.

    The format, one of `FORMATS`, is detected from the content, not from the name. The size is read from the header
    before pixels are decoded.

    Raises:
      ValueError: not an image, damaged, or of more than `most_pixels`; one line with the file name only.
    """
    path = Path(path)
    data = path.read_bytes()
    header = read_header(data)
    if header is None or header.format not in FORMATS:
        raise InvalidInput(f"{path.name} is not an image, or its format is not supported; use JPEG, PNG or WebP")
    if header.width * header.height > most_pixels:
        raise InvalidInput(
            f"{path.name} is too large: {header.width} x {header.height} pixels, and {most_pixels / 1e6:g} million are "
            "the most; shrink it first"
        )
    try:
        return decode_image(data, "apply", most_pixels)
    except ValueError:
        raise InvalidInput(
            f"{path.name} is damaged: its header is an image's, but its pixels cannot be decoded"
        ) from None
