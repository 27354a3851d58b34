"""Draws the pictures of the demo page: all proposals on the image, and one with its attention. Does not use gradio."""

import html
import json
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from pycocotools import mask as coco_mask

from fastmask_jax.inference.proposals import LABELED, Proposals
from fastmask_jax.masks.drawing import contour, crop, crop_mask, distinct_colors, frame, heat, overlay
from fastmask_jax.masks.polygons import polygons
from fastmask_jax.masks.rle_regions import bitmap

LONGEST = 1120  # pixels of the longer side of the picture on the page, whatever the image has
CLOSEUP = 640  # pixels on a side of a window that is shown alone
_OUTLINE = 1.0  # pixels of the picture that an outline under the pointer may lie beside its mask


class Sliders(NamedTuple):
    """Values of the sliders: filters of `Proposals.filtered`."""

    score_threshold: float
    nms_iou: float
    count: int


@dataclass(frozen=True)
class View:
    """An image shown to a visitor.

    Attributes:
      name: file name without suffix.
      found: all proposals, which the sliders filter without the network.
      sliders: values that `shown` is filtered by.
      shown: the filtered proposals, highest score first.
      small: their masks as RLE of the size of `picture()`.
      chosen: index in `shown` of the selected proposal; None if there is none, or a click hit none.
    """

    name: str
    found: Proposals
    sliders: Sliders
    shown: Proposals
    small: list[dict[str, Any]]
    chosen: int | None

    @classmethod
    def of(cls, name: str, found: Proposals, sliders: Sliders) -> "View":
        """Returns the view of an image's proposals; the best one is selected."""
        shown = found.filtered(**sliders._asdict())
        return cls(name, found, sliders, shown, _small(shown), 0 if len(shown) else None)

    def with_sliders(self, sliders: Sliders) -> "View":
        """Returns the view with other slider values; selects the best proposal."""
        return View.of(self.name, self.found, sliders)

    def clicked(self, x: int, y: int) -> "View":
        """Returns the view after a click at a pixel of `picture()`: selects the best proposal there, then the next."""
        width, height = _shown_size(self.shown.image_size)
        x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
        there = [k for k, rle in enumerate(self.small) if bitmap(rle, (x, y, x + 1, y + 1))[0, 0]]
        if not there:
            return replace(self, chosen=None)
        place = there.index(self.chosen) + 1 if self.chosen in there else 0
        return replace(self, chosen=there[place % len(there)])

    def selected(self, k: int) -> "View":
        """Returns the view with proposal k of `shown` selected, if there is such a one."""
        return replace(self, chosen=k) if 0 <= k < len(self.shown) else self

    def picture(self) -> UInt8[np.ndarray, "h w 3"]:
        """Draws the shown masks on the image, best on top, and a dashed frame around the selected window."""
        size = _shown_size(self.shown.image_size)
        scale = size[0] / self.shown.image_size[1]
        image = cv2.resize(self.shown.image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        labels = [f"{score:.2f}" for score in self.shown.scores] if len(self.shown) <= LABELED else []
        drawn = overlay(image, self.small, labels)
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

    def rows(self) -> list[str]:
        """Returns a short text for each shown proposal, each different."""
        boxes = self.shown.boxes.astype(int).tolist()
        return [
            f"{k} · {score:.2f} · {width} × {height}"
            for k, (score, (_, _, width, height)) in enumerate(zip(self.shown.scores, boxes, strict=True), 1)
        ]

    def outlines(self) -> str:
        """Returns HTML that holds, for each shown proposal, its outline in `picture()` as an SVG path and its row."""
        paths = [
            "".join(
                "M" + "L".join(f"{x:.0f} {y:.0f}" for x, y in ring) + "Z"
                for part in polygons(rle, _OUTLINE)
                for ring in (part.outer, *part.holes)
            )
            for rle in self.small
        ]
        content = json.dumps(list(zip(paths, self.rows(), strict=True)), separators=(",", ":"))
        return f'<div data-proposals="{html.escape(content)}"></div>'

    def _color(self) -> UInt8[np.ndarray, "3"]:
        return distinct_colors(self.chosen + 1)[-1]


def _small(proposals: Proposals) -> list[dict[str, Any]]:
    """Returns the masks at the size of the page's picture, as RLE."""
    size = _shown_size(proposals.image_size)
    how = cv2.INTER_AREA if size[0] < proposals.image_size[1] else cv2.INTER_LINEAR

    def small(mask: Bool[np.ndarray, "H W"]) -> dict[str, Any]:
        resized = cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=how) > 127
        rle = coco_mask.encode(np.asfortranarray(resized, np.uint8))
        return {"size": list(resized.shape), "counts": rle["counts"].decode()}

    return [small(proposals.mask(k)) for k in range(len(proposals))]


def _shown_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """Returns (width, height) on the page of an image of (height, width)."""
    height, width = image_size
    longest = max(height, width)
    return max(width * LONGEST // longest, 1), max(height * LONGEST // longest, 1)
