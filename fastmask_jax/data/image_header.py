"""Reads format and size from the headers of image files, without decoding pixels.

Only the formats listed here are opened: some of Pillow's other readers start programs (PostScript).
"""

import importlib
import io
import math
import re
import struct
import warnings
from typing import NamedTuple

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from PIL.TiffTags import BYTE, LONG, LONG8, SHORT, SIGNED_BYTE, SIGNED_LONG, SIGNED_SHORT

from fastmask_jax.errors import InvalidInput

MAX_PIXELS = 64_000_000  # default limit per image: 8000x8000
PNG = b"\x89PNG\r\n\x1a\n"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ICON = b"\0\0\1\0"
RADIANCE = b"#?"
_FORMATS = (
    "JPEG", "PNG", "TIFF", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "DIB", "JPEG2000", "PPM", "QOI", "SGI", "SUN", "PCX",
    "ICO", "TGA",
)  # in the order they are tried; TGA files have no signature  # fmt: skip
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_RADIANCE_SIZE = re.compile(rb"\n[-+]([XY]) (\d{1,9}) [-+]([XY]) (\d{1,9})\n")
_PFM_SIZE = re.compile(rb"P[Ff]\s+(\d{1,9})\s+(\d{1,9})\s")
_INTEGERS = (BYTE, SHORT, LONG, LONG8, SIGNED_BYTE, SIGNED_SHORT, SIGNED_LONG)  # types of TIFF tags
_PREFIX = 16  # bytes by which Pillow detects formats

# Warnings about damaged metadata: damaged images raise exceptions.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class Header(NamedTuple):
    """Format and size of an image file, as stated in its header."""

    format: str  # Pillow's name; "HDR" and "PFM" are read only by OpenCV
    height: int  # as stored, in pixels; for an icon, the size of its largest picture
    width: int


class TiffTags(NamedTuple):
    """Size and layout of a TIFF's first image; the numbers are those of the TIFF 6.0 specification."""

    height: int  # as stored, in pixels
    width: int
    bits: int  # per value; the most of any channel
    channels: int  # for which bits are stated
    compression: int
    photometric: int
    planar: int


class TooManyPixels(InvalidInput):
    """An image has more pixels than the caller allows; none was decoded."""


def read_header(data: bytes) -> Header | None:
    """Reads format and size of an image file; None if it is of no supported format, or its header is damaged."""
    if data.startswith(RADIANCE):
        found = _RADIANCE_SIZE.search(data, 0, 1 << 16)
        sides = {found[1]: int(found[2]), found[3]: int(found[4])} if found else {}
        return Header("HDR", sides[b"Y"], sides[b"X"]) if len(sides) == 2 else None
    if found := _PFM_SIZE.match(data):
        return Header("PFM", int(found[2]), int(found[1]))
    if data.startswith(TIFF):  # OpenCV supports more pixel types than Pillow
        return _header_of_tiff(data)
    if data.startswith(ICON):  # Pillow decodes icons when opening them
        return _header_of_icon(data)
    image = open_with_pillow(io.BytesIO(data))
    if image is None:
        return None
    with image:
        return Header(image.format, image.height, image.width)


def check_pixels(height: int, width: int, max_pixels: int | None) -> None:
    """Raises TooManyPixels if an image of this size has more than `max_pixels` pixels; None: no limit."""
    if max_pixels is not None and height * width > max_pixels:
        raise TooManyPixels(
            f"an image of {height}x{width} pixels has more than max_pixels={max_pixels}: shrink it, or raise the limit"
            "; in proposing, the option tile, as in tile=1024, reads it in windows (pip install 'fastmask_jax[large]')"
        )


def open_with_pillow(file: io.BufferedIOBase) -> Image.Image | None:
    """Opens an image file of a listed format and reads its header; None if it cannot be opened.

    Unlike `Image.open`, this has no limit on the number of pixels: callers check the size before decoding.
    """
    Image.init()
    prefix = file.read(_PREFIX)
    if is_heif(prefix):
        register_heif()
    for name in _FORMATS:
        if name not in Image.OPEN:  # such as AVIF or HEIF without their libraries
            continue
        factory, accepts = Image.OPEN[name]
        try:
            if accepts is not None and accepts(prefix) is not True:
                continue
            file.seek(0)
            return factory(file, "")
        except Exception:  # plugins raise many kinds of errors for damaged headers
            continue
    return None


def exif_of(file: io.BufferedIOBase) -> Image.Exif:
    """Reads the EXIF data of an image file without decoding pixels; empty if there is none.

    Raises:
      Exception: the data is damaged; of many kinds.
    """
    begin = file.read(len(PNG))
    if begin == PNG:
        return _exif_of_png(file)
    if begin.startswith(ICON):
        return Image.Exif()
    file.seek(0)
    image = open_with_pillow(file)
    return Image.Exif() if image is None else image.getexif()


def _exif_of_png(file: io.BufferedIOBase) -> Image.Exif:
    """Reads the eXIf chunk; Pillow would decode the pixels, because the chunk may follow them."""
    exif = Image.Exif()
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"eXIf":
            exif.load(b"Exif\0\0" + file.read(length))
            break
        file.seek(length + 4, io.SEEK_CUR)  # skips the checksum, too
    return exif


def _header_of_tiff(data: bytes) -> Header | None:
    tags = tiff_tags(data)
    return None if tags is None else Header("TIFF", tags.height, tags.width)


def tiff_tags(data: bytes) -> TiffTags | None:
    """Reads the tags of a TIFF's first image; None if one is damaged, or no integer."""
    try:
        directory = ImageFileDirectory_v2(data[: 16 if data[2:4] in (b"+\0", b"\0+") else 8])
        file = io.BytesIO(data)
        file.seek(directory.next)
        directory.load(file)
        bits = _integers(directory, 258, 1)
        return TiffTags(
            height=_integers(directory, 257)[0],
            width=_integers(directory, 256)[0],
            bits=max(bits),
            channels=len(bits),
            compression=_integers(directory, 259, 1)[0],
            photometric=_integers(directory, 262, 1)[0],
            planar=_integers(directory, 284, 1)[0],
        )
    except Exception:  # Pillow raises many kinds of errors for damaged directories
        return None


def _integers(directory: ImageFileDirectory_v2, tag: int, *default: int) -> tuple[int, ...]:
    """Returns the values of a tag, which Pillow decodes only here; `default` if it is missing.

    Raises:
      TypeError: the values are no integers.
    """
    if tag not in directory:
        return default
    if directory.tagtype[tag] not in _INTEGERS:
        raise TypeError(f"tag {tag} is of type {directory.tagtype[tag]}")
    value = directory[tag]
    return (value,) if isinstance(value, int) else tuple(value)


def _header_of_icon(data: bytes) -> Header | None:
    """Returns the size of the largest picture in an icon from the picture's header; the directory may understate it."""
    sizes = []
    try:
        (count,) = struct.unpack_from("<H", data, 4)
        for number in range(count):
            (start,) = struct.unpack_from("<I", data, 6 + 16 * number + 12)
            if data[start : start + len(PNG)] == PNG:
                sizes.append(struct.unpack_from(">II", data, start + 16))
            else:
                sizes.append(tuple(map(abs, struct.unpack_from("<ii", data, start + 4))))
    except struct.error:
        return None
    width, height = max(sizes, key=math.prod, default=(0, 0))
    return Header("ICO", height, width) if sizes else None


def is_heif(data: bytes) -> bool:
    """Returns whether a file has the signature of HEIC."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS


def register_heif() -> bool:
    """Enables HEIC in Pillow if pillow-heif is installed; returns whether it is."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        return False
    return True
