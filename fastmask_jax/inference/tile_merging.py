"""Merges the proposals of an image's tiles and of the whole image; memory does not grow with the image."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Int64

from fastmask_jax.inference.options import ProposeOptions
from fastmask_jax.inference.proposals import Proposals, concatenated
from fastmask_jax.inference.tiling import Tile, TileGrid
from fastmask_jax.masks.rle_regions import Box
from fastmask_jax.masks.seams import SAME, Masks, counterparts, distinct, edge_flags, pieces_of, union
from fastmask_jax.masks.suppression import reranked_scores

REACH = 8  # pixels, about a cell of a large mask: masks this close to an inner edge of their tile are cut there
SPARE = 4  # proposals kept before all tiles are merged, as a multiple of `candidates`


@dataclass(frozen=True)
class _Part:
    """Proposals of a tile, a row of tiles, or several rows.

    Attributes:
      found: proposals in pixels of the image, unsorted.
      cut: whether each is cut at the left, upper, right and lower edge, and may continue in a later part.
      seen: (x1, y1, x2, y2) of each proposal's tile, or of the box around several tiles.
    """

    found: Proposals
    cut: Bool[np.ndarray, "n 4"]
    seen: Int64[np.ndarray, "n 4"]

    @classmethod
    def of(cls, found: Proposals, box: Box, cut: Bool[np.ndarray, "n 4"] | None = None) -> "_Part":
        """Creates a part from the proposals found in a box."""
        n = len(found)
        return cls(found, np.zeros((n, 4), bool) if cut is None else cut, np.tile(np.array(box, np.int64), (n, 1)))

    def __getitem__(self, which: np.ndarray) -> "_Part":
        return _Part(self.found[which], self.cut[which], self.seen[which])

    def without(self, numbers: Int64[np.ndarray, "k"]) -> "_Part":
        return self[np.setdiff1d(np.arange(len(self.found)), numbers)]

    def raised(self, which: Int64[np.ndarray, "k"], least: Float32[np.ndarray, "k"]) -> "_Part":
        """Returns a copy in which some scores are raised to at least the given values."""
        scores = self.found.scores.copy()
        np.maximum.at(scores, which, least)
        return replace(self, found=replace(self.found, scores=scores))

    def masks(self, edge: int | None = None) -> Masks:
        """Returns the masks, with flags for those cut at an edge; None: at any edge."""
        cut = self.cut.any(1) if edge is None else self.cut[:, edge]
        return Masks(self.found.rles, self.found.boxes_xyxy, self.found.scores, cut, self.seen)


class TileMerger:
    """Collects the proposals of one image, tile by tile.

    A tile is merged with the whole image when it is added, with its neighbors when its row is complete, and a row with
    the previous rows when it is complete. See `masks.seams`.
    """

    def __init__(self, grid: TileGrid, options: ProposeOptions, whole: Proposals) -> None:
        """
        Args:
          grid: the tiles.
          options: without None values.
          whole: the proposals of the whole image.
        """
        self._grid, self._options = grid, options
        self._whole = _Part.of(replace(whole, empty=0), (0, 0, grid.size[1], grid.size[0]))
        self._empty = whole.empty
        self._row: _Part | None = None  # the tiles of the current row so far
        self._rows: _Part | None = None  # the complete rows

    def add(self, tile: Tile, found: Proposals) -> None:
        """Adds the proposals of the next tile, in pixels of the image; tiles come row by row."""
        self._empty += found.empty
        found = replace(found, empty=0)
        reach = min(REACH, max(min(self._grid.height, self._grid.width) // 16, 1))
        part = _Part.of(found, tile.box, edge_flags(found.boxes_xyxy, tile.box, self._grid.size, reach))
        part, self._whole = _known(part, self._whole)
        self._row = part if self._row is None else _met(self._row, part, 0, tile.x1)
        if tile.column == len(self._grid.lefts) - 1:
            rows = self._row if self._rows is None else _met(self._rows, self._row, 1, tile.y1)
            kept = _worth_keeping(rows, SPARE * self._options.candidates, self._options.rerank_iou)
            self._rows, self._row = rows[kept], None

    def merged(self) -> Proposals:
        """Returns the distinct proposals of all tiles and the whole image, unsorted."""
        stays, whole_stays = distinct(self._rows.masks(), self._whole.masks())
        tiles, whole = self._rows.found[stays], self._whole.found[whole_stays]
        return replace(concatenated([tiles, whole]), empty=self._empty)


def _worth_keeping(part: _Part, most: int, rerank_iou: float) -> Int64[np.ndarray, "k"]:
    """Returns the proposals with the highest scores after reranking, and all that may still be joined."""
    if len(part.found) <= most:
        return np.arange(len(part.found))
    scores = reranked_scores(part.found.scored_masks, min(rerank_iou, SAME))
    scores[part.cut.any(1)] = np.inf
    return np.sort(np.argsort(-scores, kind="stable")[:most])


def _known(part: _Part, whole: _Part) -> tuple[_Part, _Part]:
    """Drops pieces and duplicates of the whole image's proposals, or the latter if they are the worse duplicates."""
    pieces = pieces_of(part.masks(), whole.masks())
    whole = whole.raised(pieces[:, 1], part.found.scores[pieces[:, 0]])
    part = part.without(pieces[:, 0])
    stays, whole_stays = distinct(part.masks(), whole.masks())
    return part[stays], whole[whole_stays]


def _met(before: _Part, after: _Part, axis: int, start: int) -> _Part:
    """Merges two neighboring parts: replaces pieces by whole masks, joins pieces, and drops duplicates.

    Args:
      before, after: the left and the right part (axis 0), or the upper and the lower one (axis 1).
      start: first pixel of `after` along the axis.
    """
    far, near = axis, axis + 2  # columns of `cut`: edges at which a part begins and ends
    reaching = before.found.boxes_xyxy[:, near] > start
    rest, before = before[~reaching], before[reaching]

    ends, begins = before.masks(near), after.masks(far)
    pieces, others = pieces_of(ends, begins), pieces_of(begins, ends)
    before, after = (
        before.raised(others[:, 1], begins.scores[others[:, 0]]).without(pieces[:, 0]),
        after.raised(pieces[:, 1], ends.scores[pieces[:, 0]]).without(others[:, 0]),
    )
    pairs = counterparts(before.masks(near), after.masks(far))
    joined = _joined(before[pairs[:, 0]], after[pairs[:, 1]], far, near)
    before, after = before.without(pairs[:, 0]), after.without(pairs[:, 1])

    before_stays, after_stays = distinct(before.masks(), after.masks())
    parts = [rest, _closed(before[before_stays], near), _closed(after[after_stays], far), joined]
    cut, seen = (np.concatenate([getattr(part, name) for part in parts]) for name in ("cut", "seen"))
    return _Part(concatenated([part.found for part in parts]), cut, seen)


def _joined(before: _Part, after: _Part, far: int, near: int) -> _Part:
    """Returns the union of each pair of masks, with the window and the score of the better one."""
    k = len(before.found)
    better = np.where(before.found.scores >= after.found.scores, np.arange(k), k + np.arange(k))
    boxes, others = before.found.boxes_xyxy, after.found.boxes_xyxy
    low, high = np.minimum(boxes[:, :2], others[:, :2]), np.maximum(boxes[:, 2:], others[:, 2:])
    found = replace(
        concatenated([before.found, after.found])[better],
        rles=[union(a, b) for a, b in zip(before.found.rles, after.found.rles, strict=True)],
        boxes=np.concatenate([low, high - low], 1),
    )
    cut = before.cut | after.cut
    cut[:, far], cut[:, near] = before.cut[:, far], after.cut[:, near]
    seen = np.minimum(before.seen[:, :2], after.seen[:, :2]), np.maximum(before.seen[:, 2:], after.seen[:, 2:])
    return _Part(found, cut, np.concatenate(seen, 1))


def _closed(part: _Part, edge: int) -> _Part:
    """Clears the flag of an edge beyond which no further part follows."""
    cut = part.cut.copy()
    cut[:, edge] = False
    return replace(part, cut=cut)
