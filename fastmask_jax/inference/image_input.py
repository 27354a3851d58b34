"""Converts files, PIL images and arrays to RGB pixels."""

import os
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeGuard, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fastmask_jax.data.exif import UPRIGHT, Exif, check_exif, orientation_of, upright
from fastmask_jax.data.image_file import decode_image, rgb_of_pillow
from fastmask_jax.data.image_header import MAX_PIXELS, check_pixels
from fastmask_jax.data.pixel_depth import to_uint8
from fastmask_jax.errors import InvalidInput, MissingFile


@runtime_checkable
class ReadableFile(Protocol):
    """A file outside the local file system, such as `upath.UPath("s3://...")` or `etils.epath.Path`; `str` names it."""

    def read_bytes(self) -> bytes:
        """Returns the content; raises OSError or ValueError if it cannot be read."""


class ImageRead(NamedTuple):
    """An image, and how its file asks to be shown.

    Attributes:
      pixels: RGB, as a new array.
      orientation: EXIF orientation of the file, 1 to 8, whether the pixels were turned by it or not; 1: upright, or not
        stated.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    orientation: int


AnyImage = str | os.PathLike | ReadableFile | Image.Image | np.ndarray


def is_image(thing: Any) -> TypeGuard[AnyImage]:
    """Returns whether `thing` is a single image."""
    return isinstance(thing, AnyImage)


def read_image(
    image: AnyImage, exif: Exif = "ignore", max_pixels: int | None = MAX_PIXELS
) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the RGB pixels of one image, as a new array; see `read_with_orientation` for arguments and errors."""
    return read_with_orientation(image, exif, max_pixels).pixels


def read_with_orientation(image: AnyImage, exif: Exif = "ignore", max_pixels: int | None = MAX_PIXELS) -> ImageRead:
    """Reads the RGB pixels of one image, and its EXIF orientation, opening a file once.

    Args:
      image: path of a file, any other object with `read_bytes`, a PIL image of any mode, or uint8 [H, W], [H, W, 1],
        [H, W, 3] (RGB) or [H, W, 4] (RGBA). Alpha is dropped. Files and PIL images of more than 8 bits are converted
        to 8 (see `pixel_depth.to_uint8`).
      exif: "ignore": pixels as stored, as in COCO; "apply": rotate files and PIL images by their EXIF orientation.
        Boxes and masks refer to the returned pixels.
      max_pixels: maximum H · W of a file or PIL image, checked before pixels are decoded; None: no limit.

    Raises:
      FileNotFoundError, ValueError: a missing file, not an image, or more than `max_pixels` pixels; one line.
    """
    check_exif(exif)
    if isinstance(image, np.ndarray):
        return ImageRead(_from_array(image), UPRIGHT)
    if isinstance(image, Image.Image):
        check_pixels(image.height, image.width, max_pixels)
        pixels, orientation = _from_pil(image), orientation_of(image)
        return ImageRead(upright(pixels, orientation) if exif == "apply" else pixels, orientation)
    if not isinstance(image, str | os.PathLike | ReadableFile):
        raise InvalidInput(
            f"{type(image).__name__} is not an image: expected a path, a PIL image or a NumPy array (convert other "
            "arrays by np.asarray)"
        )
    path = image if isinstance(image, ReadableFile) else Path(image)
    if isinstance(path, Path) and path.is_dir():
        raise InvalidInput(
            f"{path} is a folder: pass the images in it, as in sorted(Path({str(path)!r}).glob('*.jpg'))"
        )
    try:
        data = path.read_bytes()
        return ImageRead(decode_image(data, exif, max_pixels), orientation_of(data))
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such image") from None
    except ValueError as error:
        raise InvalidInput(f"{path}: {error}") from None


def _from_array(image: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    what = f"an array of {image.dtype}{list(image.shape)}"
    if image.dtype != np.uint8:
        raise InvalidInput(
            f"{what} is not an image: expected uint8, 0 to 255; convert values from 0 to 1 by (255 * x).astype('u1')"
        )
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise InvalidInput(
            f"{what} is not an image: expected [H, W], [H, W, 3] or [H, W, 4]; pass several images as a list"
        )
    colors = image[:, :, :3]
    return np.array(np.broadcast_to(colors, (*colors.shape[:2], 3)), order="C")


def _from_pil(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    try:
        return to_uint8(rgb_of_pillow(image))
    except MemoryError:
        raise
    except Exception as error:  # PIL reads a file's pixels only now
        raise InvalidInput(f"{getattr(image, 'filename', '') or 'a PIL image'}: {error}") from None
