"""Draws one picture of a whole evaluation: best matched, worst matched and missed objects of each size."""

import heapq
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from pycocotools import mask as coco_mask

from fastmask_jax.data.coco.file_names import image_path
from fastmask_jax.data.coco.objects import CocoObject
from fastmask_jax.data.exif import Exif
from fastmask_jax.data.image_file import decode_image
from fastmask_jax.errors import InvalidInput
from fastmask_jax.evaluation.average_recall import (
    AREAS,
    IOU_THRESHOLDS,
    ListedImage,
    Ranked,
    Results,
    objects_to_find,
    over_groups,
    ranked_proposals,
)
from fastmask_jax.evaluation.match_pictures import SEARCHED
from fastmask_jax.masks.drawing import (
    BEYOND,
    DARK,
    FONT,
    LIGHT,
    captioned,
    contour,
    crop,
    crop_mask,
    grid,
    overlay,
    write_png,
)

FOUND_IOU = float(IOU_THRESHOLDS[0])  # minimum IoU at which a proposal finds an object
SIZES = tuple(area for area in AREAS if area != "all")
COLUMNS = 8
SIDE = 190  # side of a cell in pixels
WHITE, MAGENTA = np.array([[255, 255, 255], [255, 0, 200]], np.uint8)
_SURROUND = 1.6  # side of the region shown in a cell, relative to the object's longest side
_LEAST_VIEW = 48  # minimum side of that region, in pixels of the image


class Match(NamedTuple):
    """An object and the one of its image's top 100 proposals with the greatest mask IoU."""

    image: ListedImage
    one: CocoObject
    iou: float  # 0: no proposal touches the object
    score: float
    proposal: dict | None  # RLE

    @property
    def size(self) -> str:
        """Returns "small", "medium" or "large", as in the table."""
        return next((size for size in SIZES if self.one.area <= AREAS[size][1]), SIZES[-1])


def _lot(match: Match) -> float:
    """Returns a reproducible pseudorandom number between 0 and 1."""
    return zlib.crc32(str(match.one.object_id).encode()) / 2**32


class _Row:
    """Collects the matches of one kind with the highest rank, at most one per image."""

    def __init__(self, belongs: Callable[[Match], bool], rank: Callable[[Match], float]) -> None:
        self._belongs, self._rank = belongs, rank
        self._kept: list[tuple[float, int, Match]] = []
        self.total = 0

    def add(self, matches: Iterable[Match]) -> None:
        """Adds the matches of one image."""
        own = [match for match in matches if self._belongs(match)]
        self.total += len(own)
        if own:
            best = max(own, key=self._rank)
            heapq.heappush(self._kept, (self._rank(best), -best.image.image_id, best))
            if len(self._kept) > COLUMNS:
                heapq.heappop(self._kept)

    def matches(self) -> list[Match]:
        """Returns the collected matches, highest rank first."""
        return [match for *_, match in sorted(self._kept, key=lambda kept: kept[:2], reverse=True)]


def write_sheet(
    annotations: Path,
    images: Path,
    results: Results,
    path: Path,
    limit: int | None = None,
    exif: Exif = "ignore",
) -> None:
    """Draws the contact sheet of proposals to `path`, a PNG file.

    Five rows of up to eight objects, at most one per image: best matched, worst matched (IoU 0.5 and slightly above),
    and reproducible samples of missed small, medium and large objects. The title of a row gives their number. A cell
    shows the outline of the object in white and the proposal in magenta, with IoU and score, the area of the object
    in pixels, and the image id.

    Args:
      annotations: COCO instances JSON.
      images: folder of its images.
      results: COCO results file of any system, or its entries.
      limit: use only the first `limit` images by sorted id.
      exif: as in evaluation; see `image_file.decode_image`.

    Raises:
      FileNotFoundError, ValueError: as for `average_recall`; or there are no objects. One line. An image that is
        missing, unreadable or of another size than its annotations is named in its cell.
    """
    listed, _ = objects_to_find(annotations, None, limit)
    rows: list[_Row] = []
    total: Counter[str] = Counter()

    def collect(groups: Iterator[tuple[int, list[dict]]]) -> None:
        total.clear()
        found = _Row(lambda match: match.iou >= FOUND_IOU, lambda match: match.iou)
        worst = _Row(lambda match: match.iou >= FOUND_IOU, lambda match: -match.iou)
        missed = [_Row(lambda match, s=size: match.iou < FOUND_IOU and match.size == s, _lot) for size in SIZES]
        rows[:] = [found, worst, *missed]
        for image, ranked in _with_silent(ranked_proposals(groups, listed, SEARCHED, "results"), dict(listed)):
            matches = _matches(image, ranked)
            total.update(match.size for match in matches)
            for row in rows:
                row.add(matches)

    over_groups(results, collect)
    if not total:
        raise InvalidInput(f"{annotations}: no objects in {len(listed)} images: there is nothing to show")
    legend = f"(white) by one of {SEARCHED} proposals (magenta), IoU {FOUND_IOU:g} or more"
    titles = [
        f"best matched: {rows[0].total} of {total.total()} objects found {legend}",
        "worst matched",
        *(f"missed {size}: {row.total} of {total[size]}" for size, row in zip(SIZES, rows[2:], strict=True)),
    ]
    sheet = contact_sheet([(title, row.matches()) for title, row in zip(titles, rows, strict=True)], images, exif)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, sheet)


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Match]]], images: Path, exif: Exif = "ignore"
) -> UInt8[np.ndarray, "_H _W 3"]:
    """Draws titled rows of cells; a row without matches has only its title. `images` is the folder of the files."""
    strips = []
    blank = np.full((1, SIDE, 3), DARK, np.uint8)
    for title, matches in rows:
        cells = [_cell(match, images, exif) for match in matches] or [blank]
        strips.append(_titled(grid(cells + [blank] * (COLUMNS - len(cells)), columns=COLUMNS), title))
    return grid(strips, columns=1)


def _titled(strip: UInt8[np.ndarray, "_H W 3"], title: str) -> UInt8[np.ndarray, "_H2 W 3"]:
    bar = np.full((30, strip.shape[1], 3), DARK, np.uint8)
    cv2.putText(bar, title, (6, 22), FONT, 0.6, LIGHT, 1, cv2.LINE_AA)
    return np.concatenate([bar, strip])


def _with_silent(
    proposed: Iterator[tuple[int, Ranked]], waiting: dict[int, ListedImage]
) -> Iterator[tuple[ListedImage, Ranked | None]]:
    """Yields images with their proposals, then the remaining images of `waiting` without proposals."""
    for image_id, ranked in proposed:
        yield waiting.pop(image_id), ranked
    yield from ((image, None) for image in waiting.values())


def _matches(image: ListedImage, ranked: Ranked | None) -> list[Match]:
    """Returns a match for each object that is not a crowd."""
    objects = [one for one in image.objects if not one.crowd]
    proposed = (
        [(score, mask) for score, mask in zip(ranked.scores, ranked.masks, strict=True) if mask] if ranked else []
    )
    if not proposed or not objects:
        return [Match(image, one, 0.0, 0.0, None) for one in objects]
    truth = [{"size": list(image.size), "counts": one.counts} for one in objects]
    iou = np.asarray(coco_mask.iou([mask for _, mask in proposed], truth, [0] * len(truth)))
    best = iou.argmax(0)
    return [
        Match(image, one, float(iou[n, k]), proposed[n][0], proposed[n][1] if iou[n, k] else None)
        for k, (n, one) in enumerate(zip(best, objects, strict=True))
    ]


def _cell(match: Match, images: Path, exif: Exif) -> UInt8[np.ndarray, "_H _W 3"]:
    path = image_path(images, match.image.file_name)
    try:
        pixels = decode_image(path.read_bytes(), exif, max_pixels=math.prod(match.image.size))
    except (OSError, ValueError):  # its objects count as missed
        pixels = None
    if pixels is None or pixels.shape[:2] != match.image.size:
        return captioned(np.full((SIDE, SIDE, 3), BEYOND, np.uint8), f"not readable: {match.image.file_name}")
    x, y, width, height = match.one.box
    view = max(_SURROUND * max(width, height), _LEAST_VIEW)
    left, top = round(x + width / 2 - view / 2), round(y + height / 2 - view / 2)
    box = left, top, left + round(view), top + round(view)

    def shown(rle: dict) -> Bool[np.ndarray, "side side"]:
        return crop_mask(coco_mask.decode(rle).astype(bool), box, SIDE)

    picture = crop(pixels, box, SIDE)
    if match.proposal:
        picture = overlay(picture, shown(match.proposal)[None], colors=MAGENTA[None])
    picture = contour(picture, shown({"size": list(match.image.size), "counts": match.one.counts}), WHITE)
    found = f"IoU {match.iou:.2f}, score {match.score:.2f}" if match.proposal else "no proposal"
    return captioned(picture, f"{found}, {match.one.area:.0f} px, image {match.image.image_id}")
