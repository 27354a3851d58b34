"""Draws the pictures of the demo page: all proposals on the image, and one with its attention. Does not use gradio."""

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from fastmask_jax.inference.proposals import LABELED, Proposals
from fastmask_jax.masks.drawing import contour, crop, crop_mask, distinct_colors, frame, heat, overlay

LONGEST = 1120  # long edge of the picture on the page in pixels, for images of any size
CLOSEUP = 640  # side of the picture of a single window, in pixels


@dataclass(frozen=True)
class View:
    """An image shown to a visitor.

    Attributes:
      name: file name without suffix.
      results: file of the shown proposals, for download.
      found: all proposals, which the sliders filter without the network.
      shown: the filtered proposals, highest score first.
      chosen: index in `shown` of the selected proposal; None if there is none, or a click hit none.
    """

    name: str
    results: Path
    found: Proposals
    shown: Proposals
    chosen: int | None = None

    def with_sliders(self, score_threshold: float, nms_iou: float, count: int) -> "View":
        """Returns the view with other slider values; selects the best proposal."""
        shown = self.found.filtered(count=count, score_threshold=score_threshold, nms_iou=nms_iou)
        return replace(self, shown=shown, chosen=0 if len(shown) else None)

    def clicked(self, x: int, y: int) -> "View":
        """Returns the view after a click at a pixel of `picture()`: selects the best proposal there, then the next."""
        width, height = _shown_size(self.shown.image_size)
        row = y * self.shown.image_size[0] // height
        column = x * self.shown.image_size[1] // width
        there = [k for k in range(len(self.shown)) if _covers(self.shown, k, row, column)]
        if not there:
            return replace(self, chosen=None)
        place = there.index(self.chosen) + 1 if self.chosen in there else 0
        return replace(self, chosen=there[place % len(there)])

    def stepped(self, by: int) -> "View":
        """Returns the view with the selection moved by `by` proposals; wraps around at the ends."""
        if not len(self.shown):
            return self
        place = (0 if by > 0 else -1) if self.chosen is None else self.chosen + by
        return replace(self, chosen=place % len(self.shown))

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """Draws the shown masks on the image, best on top, and a dashed frame around the selected window."""
        size = _shown_size(self.shown.image_size)
        scale = size[0] / self.shown.image_size[1]
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = cv2.resize(self.shown.image, size, interpolation=how)
        masks = np.empty((len(self.shown), *image.shape[:2]), bool)
        for k, place in enumerate(masks):
            place[:] = cv2.resize(self.shown.mask(k).astype(np.uint8) * 255, size, interpolation=how) > 127
        labels = [f"{score:.2f}" for score in self.shown.scores] if len(masks) <= LABELED else []
        drawn = overlay(image, masks, labels)
        if self.chosen is None:
            return drawn
        box = np.rint(self.shown.window_boxes[self.chosen] * scale).astype(np.int64)
        return frame(drawn, box, self._color(), dashed=True)

    def closeup(self) -> tuple[UInt8[np.ndarray, "s s 3"], UInt8[np.ndarray, "s s 3"]] | None:
        """Draws the selected window with the mask's outline, and again with its attention, dark (0) to yellow (1)."""
        if self.chosen is None:
            return None
        image, box = self.shown.image, self.shown.window_boxes[self.chosen]
        mask = crop_mask(self.shown.mask(self.chosen), box, CLOSEUP)
        looked_at = crop(heat(image, self.shown.attention[self.chosen], box), box, CLOSEUP)
        return contour(crop(image, box, CLOSEUP), mask, self._color()), looked_at

    def summary(self) -> str:
        """Summarizes the view in a line of Markdown."""
        height, width = self.shown.image_size
        best = f", objectness {self.shown.scores[0]:.2f} to {self.shown.scores[-1]:.2f}" if len(self.shown) else ""
        return f"**{len(self.shown)}** of {len(self.found)} proposals{best} · image of {width} × {height} pixels"

    def description(self) -> str | None:
        """Describes the selected proposal in a line of Markdown."""
        if self.chosen is None:
            return None
        x, y, width, height = self.shown.boxes[self.chosen].astype(int).tolist()
        x1, _, x2, _ = self.shown.window_boxes[self.chosen].tolist()
        return (
            f"**Proposal {self.chosen + 1}** · objectness {self.shown.scores[self.chosen]:.3f} · "
            f"{self.shown.areas[self.chosen]:,} pixels in a box of {width} × {height} at ({x}, {y}) · "
            f"seen in the dashed window of {x2 - x1} pixels"
        )

    def _color(self) -> UInt8[np.ndarray, "3"]:
        return distinct_colors(self.chosen + 1)[-1]


def _shown_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """Returns (width, height) on the page of an image of (height, width)."""
    height, width = image_size
    longest = max(height, width)
    return max(width * LONGEST // longest, 1), max(height * LONGEST // longest, 1)


def _covers(proposals: Proposals, k: int, row: int, column: int) -> bool:
    x, y, width, height = proposals.boxes[k]
    inside = x <= column < x + width and y <= row < y + height
    return bool(inside and proposals.mask(k)[row, column])  # decodes a mask only if its box contains the pixel
