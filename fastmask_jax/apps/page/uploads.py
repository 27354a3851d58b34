"""Decodes uploaded files to RGB pixels, or explains in one line why it cannot."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from fastmask_jax.errors import InvalidInput
from fastmask_jax.inference.image_input import read_image

# Pillow's other readers start programs (PostScript), decode when opening a file, or read nested containers.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
MOST_BYTES = 64 << 20
MOST_PIXELS = 32_000_000  # limits memory: there are many masks, each as large as its image


def read_upload(path: str | os.PathLike, most_pixels: int = MOST_PIXELS) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes an image file to RGB pixels, upright: unlike in datasets, EXIF orientation is applied.

    The format, one of `FORMATS`, is detected from the content, not from the name. The size is read from the header
    before pixels are decoded.

    Raises:
      ValueError: not an image, damaged, or of more than `most_pixels`; one line with the file name only.
    """
    name = Path(path).name
    too_large = f"{name} is too large: {{}} pixels, and {most_pixels / 1e6:g} million are the most; shrink it first"
    try:
        with Image.open(path, formats=_available()) as image:
            if image.width * image.height > most_pixels:
                raise InvalidInput(too_large.format(f"{image.width} x {image.height}"))
            image.load()
            return read_image(image, "apply")
    except Image.DecompressionBombError:
        raise InvalidInput(too_large.format(f"more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} million")) from None
    except UnidentifiedImageError:
        raise InvalidInput(f"{name} is not an image, or its format is not supported; use JPEG, PNG or WebP") from None
    except (OSError, SyntaxError):
        raise InvalidInput(f"{name} is damaged: its header is an image's, but its pixels cannot be decoded") from None


def _available() -> list[str]:
    """Returns the listed formats that this build of Pillow supports; for others, Pillow raises KeyError."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]
