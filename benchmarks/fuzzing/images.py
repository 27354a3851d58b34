"""Damaged image files of every format: headers, pixels, orientation, reading in windows."""

import importlib.util
import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from benchmarks.fuzzing.mutation import damaged, pick
from fastmask_jax.data import large_image
from fastmask_jax.data.exif import orientation_of
from fastmask_jax.data.image_file import decode_image
from fastmask_jax.data.image_header import read_header
from fastmask_jax.inference.image_input import read_image

_PIXELS = 1_000_000
_BY_PILLOW = {
    "JPEG": {},
    "PNG": {},
    "TIFF": {"compression": "tiff_lzw"},
    "GIF": {},
    "BMP": {},
    "WEBP": {},
    "AVIF": {},
    "ICO": {},
    "TGA": {},
    "PCX": {},
    "SGI": {},
    "QOI": {},
    "JPEG2000": {},
}
_BY_OPENCV = (".hdr", ".pfm", ".ppm", ".pgm", ".ras", ".tiff", ".jp2")


def _files() -> list[bytes]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 40, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    files = []
    for name, options in _BY_PILLOW.items():
        for image in (Image.fromarray(pixels), Image.fromarray(pixels[:, :, 0]), Image.fromarray(pixels).quantize(16)):
            file = io.BytesIO()
            with_exif = {"exif": exif} if name in ("JPEG", "PNG", "WEBP", "TIFF") else {}
            try:
                image.save(file, name, **options, **with_exif)
            except (OSError, KeyError, ValueError):  # a mode that the format has not, or a missing library
                continue
            files.append(file.getvalue())
    for suffix in _BY_OPENCV:
        values = pixels.astype(np.float32) / 255 if suffix in (".hdr", ".pfm") else pixels
        written, data = cv2.imencode(suffix, values[:, :, 0] if suffix == ".pgm" else values)
        if written:
            files.append(data.tobytes())
    for values in (pixels.astype(np.uint16) * 99, pixels.astype(np.float32)):  # deep
        files.append(cv2.imencode(".tiff", values)[1].tobytes())
    return files


def image_case(folder: Path):
    files = _files()
    large_image.DECODED_PIXELS = 500  # so that small files, too, are read in windows
    windows = importlib.util.find_spec("rasterio") is not None

    def case(rng: np.random.Generator) -> None:
        data = damaged(rng, pick(rng, files))
        if rng.random() < 0.1:
            data += pick(rng, files)
        path = folder / pick(rng, ["a.jpg", "a.png", "a.tif"])
        path.write_bytes(data)
        read_header(data)
        orientation_of(data)
        image = large_image.open_large(path) if windows and rng.random() < 0.3 else None
        if image is not None:
            image.reduced((5, 7))
            image[0:3, 0:5]
        elif rng.random() < 0.5:
            decode_image(data, pick(rng, ["ignore", "apply"]), _PIXELS)
        else:
            read_image(path, pick(rng, ["ignore", "apply"]), _PIXELS)

    return case
