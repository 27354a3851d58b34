"""Reads images as a whole and in tiles, in one pass from the first row to the last."""

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np
from jaxtyping import UInt8

from fastmask_jax.config_schema import OFF
from fastmask_jax.data.large_image import LargeImage, open_large
from fastmask_jax.geometry import resized_size
from fastmask_jax.inference.assembly import ImagePart
from fastmask_jax.inference.image_input import AnyImage, read_with_orientation
from fastmask_jax.inference.options import ProposeOptions
from fastmask_jax.inference.tiling import grid_of, strips

Pixels = UInt8[np.ndarray, "_h _w 3"]
Job = Callable[[], tuple[ImagePart, Pixels]]  # raises OSError or ValueError if the image cannot be read


def reading_jobs(images: Iterable[AnyImage], options: ProposeOptions) -> Iterator[Job]:
    """Yields a function that reads each image; for an image in tiles, one for the whole and one for each tile.

    The functions may be called in threads. For a large image that is read in windows, the first one returns a reduced
    copy. After an error, no further functions of that image follow.

    Args:
      images: images of any sizes.
      options: without None values.
    """
    for image in images:
        if options.tile == OFF:
            yield partial(_read, image, options)
        else:
            yield from _jobs(image, options)


def _read(image: AnyImage, options: ProposeOptions) -> tuple[ImagePart, Pixels]:
    pixels, orientation = read_with_orientation(image, options.exif, options.max_pixels)
    return ImagePart(pixels, orientation=orientation), pixels


def _jobs(image: AnyImage, options: ProposeOptions) -> Iterator[Job]:
    try:
        large = open_large(image, options.exif) if isinstance(image, str | os.PathLike) else None
        if large is None:
            source, orientation = read_with_orientation(image, options.exif, options.max_pixels)
        else:
            source, orientation = large, large.orientation
        grid = grid_of(source.shape[:2], options)
        if large is not None and grid is not None:
            large.check_rows(grid.height)
        yield partial(_given, ImagePart(source, grid, None, orientation), _whole(source, options))
        for row, strip in enumerate(strips(source, grid) if grid else ()):
            for tile in grid.row(row):
                pixels = np.ascontiguousarray(strip[:, tile.x1 : tile.x2])  # a copy, which frees the strip
                yield partial(_given, ImagePart(source, grid, tile, orientation), pixels)
    except (OSError, ValueError) as error:
        yield partial(_failed, error)


def _whole(source: Pixels | LargeImage, options: ProposeOptions) -> Pixels:
    if not isinstance(source, LargeImage):
        return source
    return source.reduced(resized_size(*source.shape[:2], max(options.long_edges)))


def _given(part: ImagePart, pixels: Pixels) -> tuple[ImagePart, Pixels]:
    return part, pixels


def _failed(error: Exception) -> tuple[ImagePart, Pixels]:
    raise error
