"""Assembles the proposals of one image from the decoded windows of its views. NumPy only."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from fastmask_jax.geometry import original_window_boxes
from fastmask_jax.inference.options import ProposeOptions
from fastmask_jax.inference.proposals import Proposals, merged, mirrored_boxes
from fastmask_jax.inference.views import View
from fastmask_jax.masks.rle import masks_to_results
from fastmask_jax.masks.stability import stable_scores
from fastmask_jax.masks.suppression import reranked_scores
from fastmask_jax.models.fastmask import Decoded


@dataclass(frozen=True)
class Assembler:
    """Turns decoded windows into proposals. Thread-safe.

    Attributes:
      options: options without None values.
      strides: strides of the network's levels, in resized pixels.
    """

    options: ProposeOptions
    strides: Sequence[int]

    def __call__(
        self, pixels: UInt8[np.ndarray, "H W 3"], views: Sequence[View], decoded: Sequence[Decoded]
    ) -> Proposals:
        """Returns the proposals of an image, highest score first.

        Args:
          pixels: the original image.
          views: what the network saw of it.
          decoded: the windows of each view, best first.
        """
        options = self.options
        found = merged([self._pasted(pixels, *each) for each in zip(views, decoded, strict=True)])
        if options.rerank_iou < 1:
            scores = reranked_scores(found.scored_masks, options.rerank_iou)
            found = replace(found, scores=scores)[np.argsort(-scores, kind="stable")]
        found = found[: options.candidates].filtered(
            count=options.count,
            score_threshold=options.score_threshold,
            nms_iou=options.nms_iou,
            min_area=options.min_area,
        )
        if options.min_part > 0 or options.fill_holes > 0:
            found = found.cleaned(min_part=options.min_part, fill_holes=options.fill_holes)
        return found

    def _pasted(self, pixels: UInt8[np.ndarray, "H W 3"], view: View, decoded: Decoded) -> Proposals:
        options, original, resized = self.options, pixels.shape[:2], view.image.shape[:2]
        # A score that re-ranking lowers depends on all others, so that nothing can be left out before it.
        least = 0.0 if options.rerank_iou < 1 else options.score_threshold
        good = decoded.scores[: options.candidates] >= least
        scores, windows, logits, attention = (part[: len(good)][good] for part in decoded)
        if options.stability_weight > 0:
            scores = stable_scores(scores, logits, options.stability_weight)
        masks = masks_to_results(
            scores,
            windows,
            logits,
            strides=self.strides,
            resized=resized,
            original=original,
            threshold=options.mask_threshold,
            from_mirror=view.mirrored,
        )
        windows = windows[masks.kept]
        boxes = original_window_boxes(windows, self.strides, resized, original)
        return Proposals(
            scores=masks.scores,
            boxes=masks.boxes,
            rles=masks.segmentations,
            windows=windows,
            long_edges=np.full(len(windows), view.long_edge, np.int32),
            mirrored=np.full(len(windows), view.mirrored),
            window_boxes=mirrored_boxes(boxes, original[1]) if view.mirrored else boxes,
            attention=attention[masks.kept][:, :, :: -1 if view.mirrored else 1],
            image=pixels,
            empty=masks.empty,
        )
