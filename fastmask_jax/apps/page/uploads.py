"""Files that are dropped on the page → RGB pixels, or one line that says why not."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from fastmask_jax.errors import InvalidInput
from fastmask_jax.inference.image_input import read_image

MOST_BYTES = 64 << 20
MOST_PIXELS = 32_000_000  # masks are as large as their image, and there are many


def read_upload(path: str | os.PathLike, most_pixels: int = MOST_PIXELS) -> UInt8[np.ndarray, "H W 3"]:
    """RGB pixels of an image file, upright: other than in data sets, an EXIF orientation is followed.

    The size is asked of the file's header, before any pixel is decoded.

    Errors:
      ValueError: no image, a broken one, or one of more than `most_pixels`; one line with the file's name alone.
    """
    name = Path(path).name
    too_large = f"{name} is too large: {{}} pixels, and {most_pixels / 1e6:g} million are the most; shrink it first"
    try:
        with Image.open(path) as image:
            if image.width * image.height > most_pixels:
                raise InvalidInput(too_large.format(f"{image.width} x {image.height}"))
            return read_image(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError:
        raise InvalidInput(too_large.format(f"more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} million")) from None
    except UnidentifiedImageError:
        raise InvalidInput(f"{name} is no image, or of a format that is not read here: JPEG and PNG are") from None
    except (OSError, SyntaxError):
        raise InvalidInput(f"{name} is broken: it begins like an image, but its pixels cannot be read") from None
