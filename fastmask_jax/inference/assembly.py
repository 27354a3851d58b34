"""Assembles the proposals of an image, or of a tile, from the decoded windows of its views. NumPy only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from fastmask_jax.data.exif import UPRIGHT
from fastmask_jax.data.large_image import LargeImage
from fastmask_jax.geometry import original_window_boxes
from fastmask_jax.inference.options import ProposeOptions
from fastmask_jax.inference.proposals import Proposals, merged, mirrored_boxes
from fastmask_jax.inference.tiling import Tile, TileGrid
from fastmask_jax.inference.views import View
from fastmask_jax.masks.odds import DUPLICATE, EXTRA, scaled_odds
from fastmask_jax.masks.rle import masks_to_results
from fastmask_jax.masks.rle_regions import place
from fastmask_jax.masks.stability import stable_scores
from fastmask_jax.masks.suppression import reranked_scores
from fastmask_jax.models.fastmask import Decoded


@dataclass(frozen=True)
class ImagePart:
    """An image, or a tile of it, that is processed at once.

    Attributes:
      image: the whole image.
      grid: the tiles whose proposals are merged with those of the whole image; None: there are no tiles.
      tile: the tile; None: the whole image.
      orientation: EXIF orientation of the image's file.
    """

    image: UInt8[np.ndarray, "H W 3"] | LargeImage
    grid: TileGrid | None = None
    tile: Tile | None = None
    orientation: int = UPRIGHT

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Edges (x1, y1, x2, y2) in the image."""
        return self.tile.box if self.tile else (0, 0, self.image.shape[1], self.image.shape[0])


class _Candidates(NamedTuple):
    """Decoded windows of a view that may become proposals."""

    view: View
    scores: Float32[np.ndarray, "K"]
    windows: Int32[np.ndarray, "K 3"]
    logits: Float32[np.ndarray, "K 40 40"]
    attention: Float32[np.ndarray, "K 10 10"]

    def chosen(self, which: Bool[np.ndarray, "K"]) -> "_Candidates":
        return _Candidates(self.view, *(each[which] for each in self[1:]))


@dataclass(frozen=True)
class Assembler:
    """Turns decoded windows into proposals. Thread-safe.

    Attributes:
      options: options without None values.
      strides: strides of the network's levels, in resized pixels.
    """

    options: ProposeOptions
    strides: Sequence[int]

    def __call__(self, part: ImagePart, views: Sequence[View], decoded: Sequence[Decoded]) -> Proposals:
        """Returns the proposals of an image, ranked and filtered, highest score first; of a tile, all proposals.

        Args:
          part: the image or tile.
          views: its views.
          decoded: the windows of each view, best first.
        """
        found = [self._candidates(*each) for each in zip(views, decoded, strict=True)]
        if part.grid is not None:
            return merged([self._pasted(part, each) for each in found])
        return self.finished(self._best(part, found))

    def _candidates(self, view: View, decoded: Decoded) -> _Candidates:
        options = self.options
        good = decoded.scores[: options.candidates] >= options.score_threshold
        scores, windows, logits, attention = (each[: len(good)][good] for each in decoded)
        if options.stability_weight > 0:
            scores = stable_scores(scores, logits, options.stability_weight)
        return _Candidates(view, scores, windows, logits, attention)

    def _best(self, part: ImagePart, found: Sequence[_Candidates]) -> Proposals:
        """Pastes the masks of the views, except those that cannot be among the best `count` proposals."""
        options = self.options
        all_scores = np.concatenate([each.scores for each in found])
        filtered = options.nms_iou < 1 or options.min_area > 0
        pasted: list[Proposals] = []
        least, above = 0.0, np.inf
        while True:
            # At most `empty` of the best windows turned out to have no pixel, so as many others are needed.
            empty = sum(each.empty for each in pasted)
            least = 0.0 if filtered else self._least_score(all_scores, options.count + empty)
            if least >= above:
                break
            pasted += [
                self._pasted(part, each.chosen((least <= each.scores) & (each.scores < above))) for each in found
            ]
            above = least
        if options.nms_iou == 1:  # suppression would remove most of the extra masks
            for threshold in options.extra_thresholds:
                for each in found:
                    extra = each._replace(scores=scaled_odds(each.scores, EXTRA))
                    extra = self._pasted(part, extra.chosen(extra.scores >= least), threshold)
                    pasted.append(replace(extra, empty=0))
        return merged(pasted)

    def _least_score(self, scores: Float32[np.ndarray, "K"], count: int) -> float:
        """Returns a score that at least `count` proposals reach, also if all are near-duplicates."""
        if count > len(scores):
            return 0.0
        lowered = scaled_odds(scores, DUPLICATE) if self.options.rerank_iou < 1 else scores
        return float(np.partition(lowered, -count)[-count])

    def finished(self, found: Proposals) -> Proposals:
        """Ranks and filters all proposals of an image; returns them with the highest score first."""
        options = self.options
        if options.rerank_iou < 1:
            found = replace(found, scores=reranked_scores(found.scored_masks, options.rerank_iou))
        most = options.candidates * (1 + len(options.extra_thresholds))
        found = found[np.argsort(-found.scores, kind="stable")[:most]].filtered(
            count=options.count,
            score_threshold=options.score_threshold,
            nms_iou=options.nms_iou,
            min_area=options.min_area,
        )
        if options.min_part > 0 or options.fill_holes > 0:
            found = found.cleaned(min_part=options.min_part, fill_holes=options.fill_holes)
        return found

    def _pasted(self, part: ImagePart, found: _Candidates, threshold: float | None = None) -> Proposals:
        """Pastes masks at a threshold; None: `mask_threshold`."""
        view, scores, windows, logits, attention = found
        resized = view.image.shape[:2]
        x1, y1, x2, y2 = part.box
        original = y2 - y1, x2 - x1
        masks = masks_to_results(
            scores,
            windows,
            logits,
            strides=self.strides,
            resized=resized,
            original=original,
            threshold=threshold or self.options.mask_threshold,
            from_mirror=view.mirrored,
        )
        windows = windows[masks.kept]
        window_boxes = original_window_boxes(windows, self.strides, resized, original)
        if view.mirrored:
            window_boxes = mirrored_boxes(window_boxes, original[1])
        boxes, rles = masks.boxes, masks.segmentations
        if part.tile:
            boxes = boxes + np.array([x1, y1, 0, 0], np.float32)
            window_boxes = window_boxes + np.array([x1, y1, x1, y1])
            rles = place(rles, (x1, y1), part.image.shape[:2])
        return Proposals(
            scores=masks.scores,
            boxes=boxes,
            rles=rles,
            windows=windows,
            long_edges=np.full(len(windows), view.long_edge, np.int32),
            mirrored=np.full(len(windows), view.mirrored),
            window_boxes=window_boxes,
            attention=attention[masks.kept][:, :, :: -1 if view.mirrored else 1],
            image=part.image,
            empty=masks.empty,
            orientation=part.orientation,
        )
