"""Writes the additional outputs of an image: overlays, attention, cutouts, arrays."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from fastmask_jax.inference.proposals import Proposals
from fastmask_jax.masks.drawing import DARK, contour, crop, crop_mask, distinct_colors, grid, heat
from fastmask_jax.masks.suppression import SHOWN_IOU

WINDOW_SIDE = 200  # side of a window in the attention picture, in pixels
_LINE, _GAP = 2, 3  # width of its contours, and the gap between window and attention, in pixels


@dataclass(frozen=True)
class PictureWriter:
    """Writes the requested outputs of an image below `folder`; PNG files are RGB, cutouts RGBA.

    Pictures show the top `shown` proposals after suppression at a mask IoU of 0.5; arrays contain all proposals.

    Attributes:
      overlays: masks on the image: overlays/NAME.png.
      attention: window of each mask, and its attention: attention/NAME.png.
      cutouts: each object alone on a transparent background: cutouts/NAME/RANK.png.
      npz: scores, boxes, masks, windows, attention: npz/NAME.npz.
    """

    folder: Path
    shown: int
    overlays: bool = False
    attention: bool = False
    cutouts: bool = False
    npz: bool = False

    def write(self, name: str, proposals: Proposals) -> None:
        """Writes the pictures of one image; `name` is a path below the folder of each kind, without suffix."""
        if self.npz:
            proposals.save_npz(self._path("npz", f"{name}.npz"))
        if not (self.overlays or self.attention or self.cutouts):
            return
        shown = worth_showing(proposals, self.shown)
        if self.overlays:
            shown.overlay().save(self._path("overlays", f"{name}.png"))
        if self.attention:
            Image.fromarray(attention_sheet(shown)).save(self._path("attention", f"{name}.png"))
        if self.cutouts:
            for rank, cutout in enumerate(shown.cutouts(), 1):
                cutout.save(self._path("cutouts", name, f"{rank:03}.png"))

    def _path(self, *parts: str) -> Path:
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def worth_showing(proposals: Proposals, count: int) -> Proposals:
    """Returns the top `count` proposals after suppression at a mask IoU of `SHOWN_IOU`."""
    return proposals.filtered(count=count, nms_iou=SHOWN_IOU)


def attention_sheet(proposals: Proposals) -> UInt8[np.ndarray, "_H _W 3"]:
    """Draws the window of every proposal with the mask's outline, and its attention, from dark (0) to yellow (1)."""
    if not len(proposals):
        return grid([np.asarray(proposals.overlay())], ["nothing proposed"])
    pairs, captions = [], []
    gap = np.full((WINDOW_SIDE, _GAP, 3), DARK, np.uint8)
    for number, color in enumerate(distinct_colors(len(proposals))):
        shown = _around(proposals[number])
        box = shown.window_boxes[0]
        window = crop(shown.image, box, WINDOW_SIDE)
        mask = crop_mask(shown.mask(0), box, WINDOW_SIDE)
        looked_at = crop(heat(shown.image, shown.attention[0], box), box, WINDOW_SIDE)
        pairs.append(np.hstack([contour(window, mask, color, _LINE), gap, looked_at]))
        captions.append(f"{number + 1}: score {proposals.scores[number]:.2f}")
    return grid(pairs, captions)


def _around(proposal: Proposals) -> Proposals:
    """Crops the image of a single proposal to its window; to one pixel if the window is outside the image."""
    (x1, y1, x2, y2), (height, width) = proposal.window_boxes[0].tolist(), proposal.image_size
    left, top = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
    return proposal.cropped((left, top, max(min(x2, width), left + 1), max(min(y2, height), top + 1)))
