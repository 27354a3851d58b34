"""Defines the proposals of one image, with masks, attention and pictures on demand."""

import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, Int64, UInt8
from PIL import Image
from pycocotools import mask as coco_mask

from fastmask_jax.data.exif import UPRIGHT
from fastmask_jax.data.large_image import LargeImage
from fastmask_jax.inference.options import ProposeOptions
from fastmask_jax.masks import drawing, hierarchy, label_map, polygons
from fastmask_jax.masks.cleaning import clean
from fastmask_jax.masks.coco_results import result_entries
from fastmask_jax.masks.rle import ScoredMasks
from fastmask_jax.masks.rle_regions import bitmap, crop, sampled
from fastmask_jax.masks.suppression import SHOWN_IOU, suppress

DRAWN = 4096  # long edge, in pixels, of pictures of images that are too large to be decoded at once
LABELED = 20  # above this many proposals, score labels are omitted


@dataclass(frozen=True, eq=False)
class Proposals:
    """The n proposals of one image, highest score first, in pixels of the original image, H × W.

    `found[k]`, `found[:10]` and `found[found.scores > 0.5]` return subsets as `Proposals`; an integer returns a single
    proposal, so `for one in found` works.

    Attributes:
      scores: objectness, 0 to 1, descending.
      boxes: (x, y, width, height) of the masks.
      rles: masks as {"size": [H, W], "counts": str}, COCO's compressed RLE; `masks` and `mask` decode them.
      windows: (level, i, j) of each proposal's window (docs/design.md), in the resized image, or the resized tile of it
        (option `tile`).
      long_edges: long edge of that resized image or tile, in pixels (option `long_edges`).
      mirrored: whether the window belongs to the mirrored image (option `flip`).
      window_boxes: (x1, y1, x2, y2) of the window in the image; may extend beyond it.
      attention: attention map of the window, 0 to 1, ten by ten cells over its window box.
      image: the image, RGB; of a file that is too large to be decoded at once, an array that reads what is sliced.
      empty: number of windows dropped because their mask has no pixel, among those that could have been returned.
      orientation: EXIF orientation of the image's file, 1 to 8; 1: upright, or not stated. With the option
        `exif="apply"`, `image` is turned by it.
    """

    scores: Float32[np.ndarray, "n"]
    boxes: Float32[np.ndarray, "n 4"]
    rles: list[dict[str, Any]]
    windows: Int32[np.ndarray, "n 3"]
    long_edges: Int32[np.ndarray, "n"]
    mirrored: Bool[np.ndarray, "n"]
    window_boxes: Int64[np.ndarray, "n 4"]
    attention: Float32[np.ndarray, "n 10 10"]
    image: UInt8[np.ndarray, "H W 3"] | LargeImage
    empty: int = 0
    orientation: int = UPRIGHT

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        scores = f", scores {self.scores[0]:.3f} to {self.scores[-1]:.3f}" if len(self) else ""
        return f"<{len(self)} proposals of a {self.image_size[0]} x {self.image_size[1]} image{scores}>"

    def __getitem__(self, which: Any) -> "Proposals":
        """Selects proposals by index, slice, indices or boolean mask, in the given order."""
        if not isinstance(which, slice):
            which = np.asarray(which, None if np.size(which) else np.int64)
            if which.ndim == 0:
                which = np.array([range(len(self))[operator.index(which[()])]])
        numbers = np.arange(len(self))[which]
        return replace(
            self,
            rles=[self.rles[n] for n in numbers],
            **{name: getattr(self, name)[numbers] for name in _ARRAYS},
        )

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.image.shape[:2]

    @cached_property
    def areas(self) -> Int64[np.ndarray, "n"]:
        """Returns the area of each mask in pixels."""
        return np.array([coco_mask.area(rle) for rle in self.rles], np.int64)  # fails beyond 255 masks

    @property
    def boxes_xyxy(self) -> Float32[np.ndarray, "n 4"]:
        """Returns `boxes` as (x1, y1, x2, y2)."""
        return np.concatenate([self.boxes[:, :2], self.boxes[:, :2] + self.boxes[:, 2:]], axis=1)

    def masks(self) -> Bool[np.ndarray, "n H W"]:
        """Decodes all masks to bitmaps; n · H · W bytes."""
        result = np.empty((len(self), *self.image_size), bool)
        for k, place in enumerate(result):
            place[:] = self.mask(k)
        return result

    def mask(self, k: int) -> Bool[np.ndarray, "H W"]:
        """Decodes mask k to a bitmap."""
        return coco_mask.decode(self.rles[k]).astype(bool)

    def attention_map(self, k: int) -> Float32[np.ndarray, "H W"]:
        """Returns the attention of proposal k, 0 to 1, at the position of its window in the image; 0 elsewhere."""
        return drawing.spread(self.attention[k], self.window_boxes[k], self.image_size)

    def filtered(
        self, *, count: int | None = None, score_threshold: float = 0.0, nms_iou: float = 1.0, min_area: float | int = 0
    ) -> "Proposals":
        """Returns the proposals that pass the filters (see `ProposeOptions`); `count` None: no maximum.

        Raises:
          ValueError: an option out of range; one line.
        """
        ProposeOptions(1 if count is None else count, score_threshold, nms_iou, min_area)  # checks the values
        kept = np.flatnonzero(self.scores >= score_threshold)
        if min_area > 0:
            kept = kept[self.areas[kept] >= min_area]
        found = self[kept]
        if nms_iou < 1:
            found = found[suppress(found.scored_masks, nms_iou)]
        return found[:count]

    def cleaned(self, *, min_part: float | int = 0, fill_holes: float | int = 0) -> "Proposals":
        """Returns the proposals with small parts of their masks removed and small holes filled.

        Args:
          min_part: parts with fewer pixels of the image are removed; below 1, a share of the mask's pixels. The largest
            part always stays.
          fill_holes: holes with at most this many pixels of the image are filled; below 1, a share of the mask.

        Raises:
          ValueError: a negative number.
        """
        rles = [clean(rle, min_part, fill_holes) for rle in self.rles]
        boxes = np.array([coco_mask.toBbox(rle) for rle in rles], np.float32).reshape(-1, 4)
        return replace(self, rles=rles, boxes=boxes)

    def cropped(self, box: Sequence[int]) -> "Proposals":
        """Returns the proposals in a part of the image, in pixels of that part; masks may be empty.

        Args:
          box: (x1, y1, x2, y2), within the image.
        """
        x1, y1, x2, y2 = (int(edge) for edge in box)
        rles = crop(self.rles, (x1, y1, x2, y2))
        return replace(
            self,
            rles=rles,
            boxes=np.array([coco_mask.toBbox(rle) for rle in rles], np.float32).reshape(-1, 4),
            window_boxes=self.window_boxes - np.array([x1, y1, x1, y1]),
            image=self.image[y1:y2, x1:x2],
        )

    def label_map(self) -> Int32[np.ndarray, "H W"]:
        """Returns a label for every pixel: k + 1 for proposal k, 0 for none (see `masks.label_map.label_map`).

        Where proposals overlap, the one with the highest score gets the pixel; among equal scores, the smallest one.
        """
        return label_map.label_map(self.rles, self.scores, self.image_size)

    def hierarchy(self, inside: float | int = hierarchy.INSIDE) -> hierarchy.Hierarchy:
        """Finds the parent of each proposal: the smallest larger one that contains the fraction `inside` of its pixels.

        Raises:
          ValueError: `inside` is not above 0 and at most 1.
        """
        return hierarchy.hierarchy(self.rles, self.areas, inside)

    def groups(self, iou_threshold: float | int = SHOWN_IOU) -> Int32[np.ndarray, "n"]:
        """Groups proposals of the same object by IoU; returns for each the index of the best one in its group.

        Raises:
          ValueError: `iou_threshold` is not between 0 and 1.
        """
        return hierarchy.groups(self.rles, self.scores, iou_threshold)

    def polygons(self, tolerance: float | int = polygons.TOLERANCE) -> list[list[polygons.Polygon]]:
        """Finds the outlines of each mask: a polygon with its holes for each part (see `masks.polygons.polygons`).

        Args:
          tolerance: maximum distance of an outline from the exact one, in pixels; 0: exact.

        Raises:
          ValueError: `tolerance` is negative.
        """
        return [polygons.polygons(rle, tolerance) for rle in self.rles]

    def overlay(
        self,
        *,
        scores: bool | None = None,
        colors: UInt8[np.ndarray, "n 3"] | Sequence[Sequence[int]] | None = None,
        opacity: float = 0.45,
    ) -> Image.Image:
        """Draws all masks on the image, highest score on top.

        An image that is too large to be decoded at once is drawn with a long edge of 4096 pixels.

        Args:
          scores: draw scores where there is room; None: only if there are few proposals.
          colors: RGB of the masks; None: distinct colors.
          opacity: opacity of the masks, 0 to 1.

        Raises:
          ValueError: another number of colors, or an opacity out of range.
        """
        written = len(self) <= LABELED if scores is None else scores
        labels = [f"{score:.2f}" for score in self.scores] if written else []
        inks = None if colors is None else np.asarray(colors, np.uint8).reshape(-1, 3)
        image = self.image
        masks: list[dict[str, Any]] | np.ndarray = self.rles
        if isinstance(image, LargeImage):
            height, width = (max(side * DRAWN // max(self.image_size), 1) for side in self.image_size)
            rows, columns = (
                ((2 * np.arange(few) + 1) * side // (2 * few))
                for few, side in zip((height, width), self.image_size, strict=True)
            )
            image = image.reduced((height, width))
            masks = np.array([sampled(rle, rows, columns) for rle in masks], bool).reshape(-1, height, width)
        return Image.fromarray(drawing.overlay(image, masks, labels, inks, opacity))

    def cutouts(self) -> list[Image.Image]:
        """Returns each object alone, cropped to its box: RGBA, transparent outside its mask."""
        cut = []
        for k, (x, y, width, height) in enumerate(self.boxes.astype(int).tolist()):
            alpha = bitmap(self.rles[k], (x, y, x + width, y + height)).astype(np.uint8) * 255
            cut.append(Image.fromarray(np.dstack([self.image[y : y + height, x : x + width], alpha])))
        return cut

    def to_results(self, image_id: int) -> list[dict[str, Any]]:
        """Returns entries of a COCO results file, ready for json.dump."""
        return result_entries(image_id, self.scored_masks)

    def to_supervision(self) -> Any:
        """Returns the proposals as `supervision.Detections`, all of class 0.

        Raises:
          ImportError: the package supervision is not installed; one line.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError("to_supervision needs the package supervision: pip install supervision") from error
        return supervision.Detections(
            xyxy=self.boxes_xyxy, mask=self.masks(), confidence=self.scores, class_id=np.zeros(len(self), int)
        )

    def save_npz(self, path: str | os.PathLike) -> Path:
        """Writes everything except the image to a NumPy file that np.load reads without pickles.

        Arrays: scores, boxes, windows, long_edges, mirrored, window_boxes, attention, and for the masks image_size and
        counts; pycocotools decodes {"size": image_size, "counts": bytes(counts[k])}.
        """
        path = Path(path)
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        counts = np.array([rle["counts"].encode() for rle in self.rles], np.bytes_)
        with path.open("wb") as file:  # with a path, NumPy would add a suffix
            np.savez_compressed(file, image_size=np.array(self.image_size), counts=counts, **arrays)
        return path

    @property
    def scored_masks(self) -> ScoredMasks:
        """Returns scores, boxes and masks as used by `fastmask_jax.masks`."""
        return ScoredMasks(self.scores, self.boxes, self.rles, np.arange(len(self)), self.empty)


_ARRAYS = ("scores", "boxes", "windows", "long_edges", "mirrored", "window_boxes", "attention")


def concatenated(parts: Sequence[Proposals]) -> Proposals:
    """Concatenates proposals of one image from several runs, without sorting them by score."""
    arrays: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    rles = [rle for part in parts for rle in part.rles]
    return replace(parts[0], rles=rles, empty=sum(part.empty for part in parts), **arrays)


def merged(parts: Sequence[Proposals]) -> Proposals:
    """Merges proposals of one image from several runs, highest score first; stable for equal scores."""
    together = concatenated(parts)
    return together[np.argsort(-together.scores, kind="stable")]


def mirrored_boxes(boxes: Int[np.ndarray, "n 4"], width: int) -> Int64[np.ndarray, "n 4"]:
    """Flips (x1, y1, x2, y2) left to right in an image of the given width."""
    x1, y1, x2, y2 = np.asarray(boxes, np.int64).T
    return np.stack([width - x2, y1, width - x1, y2], axis=1)
