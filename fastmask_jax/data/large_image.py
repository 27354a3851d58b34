"""Reads large image files in windows, because decoding them at once would take too much memory. Needs rasterio."""

import importlib.util
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float64, Shaped, UInt8

from fastmask_jax.data.exif import UPRIGHT, Exif, orientation_of
from fastmask_jax.data.image_header import MAX_PIXELS
from fastmask_jax.data.pixel_depth import to_uint8
from fastmask_jax.errors import InvalidInput
from fastmask_jax.masks.rle import MOST_PIXELS, MOST_SIDE

DECODED_PIXELS = MAX_PIXELS  # smaller images are decoded at once
_CHUNK_BYTES = 32 << 20  # size of the chunks in which a whole image is read
_CACHE_MEGABYTES = 64  # GDAL's
_DRIVERS = ["GTiff", "JPEG", "PNG", "JP2OpenJPEG", "BMP", "GIF", "BIGGIF", "WEBP", "PNM", "HFA", "NITF"]
_MOST_PIXELS_PER_BYTE = 10_000  # of a file; an empty 1-bit PNG, which compresses best, has 8,300
_MOST_ROW_BYTES = 8 << 30  # of what must be in memory at once: a row of blocks, or of tiles

if (_log := logging.getLogger("rasterio")).level == logging.NOTSET:  # damaged images raise errors, and print no lines
    _log.setLevel(logging.CRITICAL)


def open_large(path: str | os.PathLike, exif: Exif = "ignore") -> "LargeImage | None":
    """Opens an image file for reading in windows, if it is large.

    Args:
      path: path of the file.
      exif: see `decode_image`; images that must be rotated are decoded at once.

    Returns:
      None for images of up to `DECODED_PIXELS`, for files that GDAL cannot read, and without rasterio.

    Raises:
      ValueError: the image cannot be as large as the file says, or not be read in rows; one line.
    """
    if importlib.util.find_spec("rasterio") is None or not Path(path).is_file():
        return None
    dataset = open_raster(path)
    if dataset is None or dataset.count == 0 or dataset.width * dataset.height <= DECODED_PIXELS:
        return None
    orientation = orientation_of(Path(path))
    if exif == "apply" and orientation != UPRIGHT:
        return None
    _check_claim(Path(path), dataset)
    return LargeImage(path, dataset, orientation)


def _check_claim(path: Path, dataset: Any) -> None:
    """Raises InvalidInput for a size that the file cannot have: a few bytes can claim any."""
    height, width, size = dataset.height, dataset.width, path.stat().st_size
    what = f"{path}: {size} bytes that claim an image of {height}x{width} pixels"
    if height * width > _MOST_PIXELS_PER_BYTE * size:
        raise InvalidInput(f"{what}, more than {_MOST_PIXELS_PER_BYTE} for each byte: not a sound image file")
    if height * width > MOST_PIXELS or max(height, width) > MOST_SIDE:
        raise InvalidInput(f"{what}: at most {MOST_PIXELS} pixels, and {MOST_SIDE} a side; cut it into parts")
    rows = dataset.block_shapes[0][0]
    row_bytes = rows * width * min(dataset.count, 3) * np.dtype(dataset.dtypes[0]).itemsize
    if row_bytes > _MOST_ROW_BYTES:
        raise InvalidInput(
            f"{what}, stored in blocks of {rows} rows, which take {row_bytes >> 30} GiB: convert it to a tiled TIFF"
        )


def open_raster(path: str | os.PathLike) -> Any | None:
    """Opens a file with rasterio; None if GDAL cannot read it.

    Only formats that hold the pixels themselves: others name further files, or addresses in the network.
    """
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
    from rasterio.io import DatasetReader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.Env():
                return DatasetReader(os.fspath(path), driver=_DRIVERS)  # which `rasterio.open` takes one of
        except RasterioIOError:
            return None


@contextmanager
def in_memory(data: bytes) -> Iterator["LargeImage | None"]:
    """Opens a file that has been read, of any size; yields None if GDAL cannot read it. Needs rasterio.

    Raises:
      ValueError: its values have no known range; one line.
    """
    from rasterio.io import MemoryFile

    with MemoryFile(data) as file:
        dataset = open_raster(file.name)
        if dataset is None or dataset.count == 0:
            yield None
        else:
            with dataset:
                yield LargeImage("a TIFF image", dataset)


class LargeImage:
    """The RGB pixels of an image file, uint8 [H, W, 3], read by slicing: `image[y1:y2, x1:x2]`. Thread-safe.

    Uses the file's red, green and blue bands; otherwise the first three; otherwise the first one as gray. Applies
    palettes. Scales values of more than 8 bits like `to_uint8` on the whole image. `np.asarray` decodes all pixels.
    """

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, path: str | os.PathLike, dataset: Any, orientation: int = UPRIGHT) -> None:
        """
        Args:
          path: of the file.
          dataset: from `open_raster`.
          orientation: EXIF orientation of the file, by which the pixels are not turned.

        Raises:
          ValueError: its colors are CMYK, or its values have no known range; one line.
        """
        self.orientation = orientation
        self._path, self._dataset = Path(path), dataset
        self._lock = threading.Lock()
        if _is_cmyk(dataset):
            raise InvalidInput(f"{path}: CMYK colors cannot be read here: convert the image to RGB")
        self._bands = _bands(dataset)
        self._palette = _palette(dataset, self._bands)
        self._negative = dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES" and self._palette is None
        self._range: tuple[Any, Any] | None = None
        self.shape = (dataset.height, dataset.width, 3)
        bits = dataset.tags(self._bands[0], ns="IMAGE_STRUCTURE").get("NBITS")
        self._two_valued = bits == "1" and self._palette is None
        if self._palette is None and not self._two_valued and dataset.dtypes[self._bands[0] - 1] != "uint8":
            self._range = self._values_range()

    def __getitem__(self, where: tuple[slice, slice]) -> UInt8[np.ndarray, "h w 3"]:
        """Reads rows and columns, given as slices without a step.

        Raises:
          ValueError: the file is damaged; one line.
        """
        (top, bottom, _), (left, right, _) = (
            part.indices(side) for part, side in zip(where, self.shape[:2], strict=True)
        )
        return self._rgb(self._read(top, bottom, left, right))

    def check_rows(self, rows: int) -> None:
        """Raises a ValueError if so many rows take too much memory."""
        row_bytes = rows * self.shape[1] * 3
        if row_bytes > _MOST_ROW_BYTES:
            raise InvalidInput(
                f"{self._path}: a row of tiles of {rows}x{self.shape[1]} pixels takes {row_bytes >> 30} GiB: "
                "choose a smaller tile"
            )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:, :].astype(dtype or np.uint8, copy=False)

    def reduced(self, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
        """Reads the whole image at a smaller (height, width), by averaging areas."""
        height, width = size
        total = np.zeros((height, width, 3))
        for top, chunk in self._chunks():
            narrow = cv2.resize(self._rgb(chunk).astype(np.float32), (width, len(chunk)), interpolation=cv2.INTER_AREA)
            first, weights = _row_weights(top, len(chunk), self.shape[0], height)
            total[first : first + len(weights)] += np.tensordot(weights, narrow, 1)
        return np.rint(total).astype(np.uint8)

    def _chunks(self) -> Iterator[tuple[int, Shaped[np.ndarray, "h w bands"]]]:
        """Yields (number of the first row, rows of the full width) from the top: few formats can seek backwards."""
        height, width, _ = self.shape
        block = self._dataset.block_shapes[0][0]
        rows = max(_CHUNK_BYTES // (width * 3 * np.dtype(self._dataset.dtypes[0]).itemsize), 1)
        rows = -(-rows // block) * block
        for top in range(0, height, rows):
            yield top, self._read(top, min(top + rows, height), 0, width)

    def _read(self, top: int, bottom: int, left: int, right: int) -> Shaped[np.ndarray, "h w bands"]:
        import rasterio
        from rasterio.errors import RasterioError
        from rasterio.windows import Window

        with self._lock, rasterio.Env(GDAL_CACHEMAX=_CACHE_MEGABYTES):
            try:
                values = self._dataset.read(self._bands, window=Window(left, top, right - left, bottom - top))
            except RasterioError as error:
                line = " ".join(str(error.__cause__ or error).split())
                raise InvalidInput(f"{self._path}: cannot be read from row {top} on ({line})") from None
        return np.moveaxis(values, 0, 2)

    def _rgb(self, values: Shaped[np.ndarray, "h w bands"]) -> UInt8[np.ndarray, "h w 3"]:
        if self._palette is not None:
            return self._palette[values[:, :, 0]]
        values = to_uint8(values > 0 if self._two_valued else values, self._range)
        if self._negative:
            values = 255 - values
        return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))

    def _values_range(self) -> tuple[Any, Any]:
        ranges = [(chunk.min(), chunk.max()) for _, chunk in self._chunks()]
        least, most = (np.array(values) for values in zip(*ranges, strict=True))
        try:
            to_uint8(np.zeros(0, least.dtype), (least.min(), most.max()))
        except InvalidInput as error:
            raise InvalidInput(f"{self._path}: {error}") from None
        return least.min(), most.max()


def _bands(dataset: Any) -> list[int]:
    from rasterio.enums import ColorInterp

    named = {color: band for band, color in enumerate(dataset.colorinterp, 1)}
    colors = [named.get(color, 0) for color in (ColorInterp.red, ColorInterp.green, ColorInterp.blue)]
    if all(colors):
        return colors
    return [1, 2, 3] if dataset.count >= 3 else [1]


def _is_cmyk(dataset: Any) -> bool:
    from rasterio.enums import ColorInterp

    return ColorInterp.cyan in dataset.colorinterp


def _palette(dataset: Any, bands: list[int]) -> UInt8[np.ndarray, "n 3"] | None:
    from rasterio.enums import ColorInterp

    if len(bands) > 1 or dataset.colorinterp[0] != ColorInterp.palette:
        return None
    colors = np.zeros((1 << (8 * np.dtype(dataset.dtypes[0]).itemsize), 3), np.uint8)
    for value, color in dataset.colormap(1).items():
        colors[value] = color[:3]
    return colors


def _row_weights(top: int, count: int, side: int, reduced: int) -> tuple[int, Float64[np.ndarray, "r count"]]:
    """Returns the first reduced row that `count` rows from `top` contribute to, and the weight of each contribution."""
    scale = side / reduced
    first = min(int(top / scale), reduced - 1)
    last = min(int(np.ceil((top + count) / scale)), reduced)
    rows, pixels = np.arange(first, last)[:, None], top + np.arange(count)
    covered = np.minimum(pixels + 1, (rows + 1) * scale) - np.maximum(pixels, rows * scale)
    return first, np.maximum(covered, 0) / scale
