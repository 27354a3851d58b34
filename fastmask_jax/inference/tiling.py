"""Divides large images into overlapping tiles of equal size. All lengths are in pixels of the original image."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from fastmask_jax.config_schema import AUTO, OFF
from fastmask_jax.data.large_image import LargeImage
from fastmask_jax.inference.options import ProposeOptions

AUTOMATIC_FROM = 2  # automatic tiles: only for images whose long side exceeds this many tiles


class Tile(NamedTuple):
    """A part of an image: pixels [y1, y2) × [x1, x2).

    Attributes:
      row, column: position in the grid, from 0.
    """

    row: int
    column: int
    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Edges (x1, y1, x2, y2)."""
        return self.x1, self.y1, self.x2, self.y2


@dataclass(frozen=True)
class TileGrid:
    """Tiles of equal size that cover an image, row by row.

    Attributes:
      size: (H, W) of the image.
      height, width: size of every tile: the requested side, or the image's if that is smaller.
      tops, lefts: y1 of every row and x1 of every column.
    """

    size: tuple[int, int]
    height: int
    width: int
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def __iter__(self) -> Iterator[Tile]:
        for row in range(len(self.tops)):
            yield from self.row(row)

    def is_last(self, tile: Tile) -> bool:
        """Returns whether a tile is the last one."""
        return tile.row == len(self.tops) - 1 and tile.column == len(self.lefts) - 1

    def row(self, row: int) -> list[Tile]:
        """Returns the tiles of a row, from the left."""
        top = self.tops[row]
        return [
            Tile(row, column, left, top, left + self.width, top + self.height) for column, left in enumerate(self.lefts)
        ]


def strips(image: UInt8[np.ndarray, "H W 3"] | LargeImage, grid: TileGrid) -> Iterator[UInt8[np.ndarray, "h W 3"]]:
    """Yields the pixels of each row of tiles; reads rows once, from the top, because few formats can seek backwards."""
    strip, top = np.zeros((0, *image.shape[1:]), np.uint8), 0
    for next_top in grid.tops:
        had = strip[next_top - top :] if top + len(strip) > next_top else strip[:0]
        more = image[next_top + len(had) : next_top + grid.height, :]
        strip, top = np.concatenate([had, more]) if len(had) else more, next_top
        yield strip


def tile_grid(size: tuple[int, int], tile: int, overlap: int) -> TileGrid:
    """Divides an image of (H, W) pixels into as few tiles as possible, evenly spaced.

    Args:
      size: (H, W).
      tile: side of a tile.
      overlap: minimum overlap of neighbors in pixels; below `tile`.
    """
    height, width = (min(tile, side) for side in size)
    return TileGrid(size, height, width, _starts(size[0], height, overlap), _starts(size[1], width, overlap))


def grid_of(size: tuple[int, int], options: ProposeOptions) -> TileGrid | None:
    """Returns the tiles of an image of (H, W) pixels; None if it is processed only as a whole.

    Args:
      size: (H, W).
      options: without None values.
    """
    if options.tile == OFF:
        return None
    automatic = options.tile == AUTO
    tile = max(options.long_edges) if automatic else options.tile
    if max(size) <= (AUTOMATIC_FROM * tile if automatic else tile):
        return None
    overlap = options.tile_overlap * tile if options.tile_overlap < 1 else options.tile_overlap
    return tile_grid(size, tile, min(int(overlap), tile // 2))


def _starts(side: int, tile: int, overlap: int) -> tuple[int, ...]:
    count = 1 if side <= tile else -(-(side - overlap) // (tile - overlap))
    return tuple(number * (side - tile) // max(count - 1, 1) for number in range(count))
