"""Reads and applies EXIF orientations."""

import io
import struct
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from fastmask_jax.config_schema import EXIF
from fastmask_jax.data.image_header import TIFF, exif_of
from fastmask_jax.errors import InvalidInput

Exif = Literal["ignore", "apply"]
_ORIENTATION = 0x0112
_LONG = 4  # a type of TIFF
UPRIGHT = 1
SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width


def check_exif(exif: object) -> None:
    """Raises a ValueError if `exif` is neither "ignore" nor "apply"."""
    if exif not in EXIF:
        raise InvalidInput(f"exif={exif!r}: expected 'ignore' (pixels as stored, as in COCO) or 'apply' (upright)")


def orientation_of(image: bytes | Path | Image.Image) -> int:
    """Returns the EXIF orientation of an image, 1 to 8; 1, upright, if it has none or cannot be read.

    Args:
      image: bytes of a file, its path, or a PIL image. Only the header is read.
    """
    try:
        if isinstance(image, Image.Image):
            return _stated(image.getexif())
        with io.BytesIO(image) if isinstance(image, bytes) else image.open("rb") as file:
            return _stated(exif_of(file))
    except Exception:  # PIL raises many kinds of errors for broken headers; decoding reports them
        return UPRIGHT


def _stated(exif: Image.Exif) -> int:
    value = exif.get(_ORIENTATION)
    return value if isinstance(value, int) and 1 <= value <= 8 else UPRIGHT


def as_stored(data: bytes) -> bytes:
    """Returns a file that every decoder decodes without applying an orientation.

    This is the file itself, except for TIFF and BigTIFF, where decoders apply the orientation: there it is set to 1.
    HEIC has no such form: its decoders always turn the pixels, and `orientation_of` is 1.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if not data.startswith(TIFF) or orientation_of(data) == UPRIGHT:
        return data
    if data[2:4] in (b"*\0", b"\0*"):
        offset_at, offset, count, head, entry_size, value = 4, "I", "H", 2, 12, 8
    else:
        offset_at, offset, count, head, entry_size, value = 8, "Q", "Q", 8, 20, 12
    (start,) = struct.unpack_from(f"{order}{offset}", data, offset_at)
    (entries,) = struct.unpack_from(f"{order}{count}", data, start)
    patched = bytearray(data)
    end = min(start + head + entry_size * entries, len(data) - entry_size + 1)  # the file may be cut off
    for entry in range(start + head, end, entry_size):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if tag == _ORIENTATION:
            struct.pack_into(f"{order}{'I' if kind == _LONG else 'H'}", patched, entry + value, UPRIGHT)
    return bytes(patched)


def upright(pixels: Shaped[np.ndarray, "_H _W 3"], orientation: int) -> Shaped[np.ndarray, "_h _w 3"]:
    """Rotates and mirrors stored pixels according to an EXIF orientation, 1 to 8."""
    if orientation in SIDEWAYS:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
