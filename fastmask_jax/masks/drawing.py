"""Pictures of proposals: masks, windows, attention, sheets. Pure functions: uint8 RGB in, uint8 RGB out, new arrays.

Coordinates are pixels of the picture that is drawn on; boxes are edges (x1, y1, x2, y2) as in `geometry`, pixel k
covering [k, k + 1), and may lie beyond the picture. Letters: H, W sides of a picture; m masks.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8
from pycocotools import mask as coco_mask

from fastmask_jax.errors import InvalidInput

Image = UInt8[np.ndarray, "H W 3"]
Colors = UInt8[np.ndarray, "m 3"]
Masks = Bool[np.ndarray, "m H W"] | Sequence[Mapping[str, Any]]
Color = Sequence[int] | UInt8[np.ndarray, "3"]
Box = Sequence[int] | Int[np.ndarray, "4"]

FONT = cv2.FONT_HERSHEY_SIMPLEX
DARK, LIGHT = (18, 18, 18), (245, 245, 245)
GRAY = np.array([0.299, 0.587, 0.114], np.float32)  # luma of (R, G, B)
BEYOND = 96  # gray of what lies beyond the image
PALETTE = 240
_MOST = 0.5  # of an image's sides: a label that takes more would hide what it speaks of
_REACH = 12  # label heights, and a third as many widths, that a label may be moved for room


@cache
def _palette() -> Colors:
    """Colors in an order in which each is as far as can be, in CIE Lab, from all before it.

    Neither too dark nor too pale, and none near gray: they stand out from the ground and carry black or white text.
    """
    steps = np.linspace(0, 255, 16).round().astype(np.uint8)
    rgb = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    lab = cv2.cvtColor((rgb / 255).astype(np.float32), cv2.COLOR_RGB2LAB)[:, 0]
    vivid = (lab[:, 0] > 45) & (lab[:, 0] < 88) & (np.hypot(lab[:, 1], lab[:, 2]) > 45)
    rgb, lab = rgb[vivid, 0], lab[vivid]
    chosen = [int(np.argmax(lab[:, 1] + lab[:, 2]))]
    distance = np.full(len(lab), np.inf)
    while len(chosen) < PALETTE:
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(distance)))
    return rgb[chosen]


def distinct_colors(count: int) -> UInt8[np.ndarray, "count 3"]:
    """The first `count` RGB colors of a fixed row in which neighbors and beginnings are easily told apart.

    Color k is always the same one; after 240 they begin again.
    """
    return _palette()[np.arange(count) % PALETTE]


def overlay(
    image: Image,
    masks: Masks,
    labels: Sequence[str] = (),
    colors: Colors | None = None,
    opacity: float = 0.45,
) -> Image:
    """Masks on the image: filled, with a contour, and a label each; the first mask lies on top.

    Args:
      masks: bitmaps, or RLE of the image's size as `ScoredMasks.segmentations` has it, best first.
      labels: a text for each mask, or none. One for which the image has no room is left out: of two that cover each
        other neither is read.
      colors: of the masks; else the first of `distinct_colors`.
      opacity: of the filling, 0 to 1.

    Errors:
      ValueError: numbers or sizes do not fit.
    """
    if not 0 <= opacity <= 1:
        raise InvalidInput(f"opacity={opacity}: between 0 (contours alone) and 1 is wanted")
    bitmaps = [_bitmap(mask) for mask in masks]
    colors = distinct_colors(len(bitmaps)) if colors is None else colors
    if len(colors) != len(bitmaps) or (labels and len(labels) != len(bitmaps)):
        raise InvalidInput(
            f"{len(bitmaps)} masks, {len(labels)} labels, {len(colors)} colors: a mask needs one of each"
        )
    for number, bitmap in enumerate(bitmaps):
        if bitmap.shape != image.shape[:2]:
            raise InvalidInput(
                f"mask {number} of {bitmap.shape} does not fit an image of {image.shape[:2]}; resize one"
            )
    result = image.copy()
    for bitmap, color in reversed(list(zip(bitmaps, colors, strict=True))):
        below = result[bitmap]
        result[bitmap] = np.rint((1 - opacity) * below + opacity * color.astype(np.float32)).astype(np.uint8)
    for bitmap, color in reversed(list(zip(bitmaps, colors, strict=True))):
        result = contour(result, bitmap, color)
    taken: list[Box] = []
    for bitmap, color, text in zip(bitmaps, colors, labels, strict=False):
        if text and bitmap.any():
            taken += _label(result, text, _inmost(bitmap), color, taken)
    return result


def contour(image: Image, mask: Bool[np.ndarray, "H W"], color: Color, width: int | None = None) -> Image:
    """The mask's border in its color, with a dark line outside of it: it shows on any ground.

    The line lies inside the mask, and where the mask ends with the image there is none. It is `width` pixels wide;
    None: `line_width`.
    """
    result = image.copy()
    if not mask.any():
        return result
    width = width or line_width(image)
    part = _bounds(mask, margin=1)
    inside = mask[part].astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    view = result[part]
    view[cv2.dilate(inside, np.ones((3, 3), np.uint8)) > inside] = DARK
    view[inside > cv2.erode(inside, disc)] = color
    return result


def frame(image: Image, box: Box, color: Color, dashed: bool = False) -> Image:
    """The rectangle's border, with a dark line within; all inside the rectangle, cut at the image."""
    result = image.copy()
    width = line_width(image)
    y, x = np.ogrid[: image.shape[0], : image.shape[1]]
    x1, y1, x2, y2 = (int(edge) for edge in box)
    depth = np.minimum(np.minimum(x - x1, x2 - 1 - x), np.minimum(y - y1, y2 - 1 - y))  # 0 on the outmost pixels
    shown = (x - x1 + y - y1) // (4 * width) % 2 == 0 if dashed else True
    result[(depth >= 0) & (depth < width) & shown] = color
    result[(depth == width) & shown] = DARK
    return result


def dots(image: Image, points: Int[np.ndarray, "n 2"], color: Color, cross: bool = False) -> Image:
    """A disc, or a cross, with a dark edge, at each (x, y)."""
    result = image.copy()
    width = line_width(image)
    ink = [int(part) for part in color]
    for x, y in points.tolist():
        if cross:
            cv2.drawMarker(result, (x, y), DARK, cv2.MARKER_TILTED_CROSS, 4 * width + 4, width + 2)
            cv2.drawMarker(result, (x, y), ink, cv2.MARKER_TILTED_CROSS, 4 * width + 2, width)
        else:
            cv2.circle(result, (x, y), 2 * width + 1, DARK, -1, cv2.LINE_AA)
            cv2.circle(result, (x, y), 2 * width, ink, -1, cv2.LINE_AA)
    return result


def heat(image: Image, values: Float[np.ndarray, "h w"], box: Box, opacity: float = 0.6) -> Image:
    """Values from 0 (dark) to 1 (bright yellow) as cells over the box, cut at the image; the rest is untouched.

    Under the cells the image is gray, or else its colors would be taken for values.
    """
    part, rows, columns = _laid(values, box, image.shape[:2])
    result = image.copy()
    level = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    tint = cv2.applyColorMap(level, cv2.COLORMAP_INFERNO)[rows[:, None], columns, ::-1].astype(np.float32)
    gray = image[part] @ GRAY
    result[part] = np.rint((1 - opacity) * gray[..., None] + opacity * tint).astype(np.uint8)
    return result


def spread(values: Float[np.ndarray, "h w"], box: Box, size: tuple[int, int]) -> Float32[np.ndarray, "H W"]:
    """Values as cells over the box in an image of (H, W), cut at the image; 0 elsewhere."""
    part, rows, columns = _laid(values, box, size)
    result = np.zeros(size, np.float32)
    result[part] = values[rows[:, None], columns]
    return result


def crop(image: Image, box: Box, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """What the box shows, gray where it goes beyond the image, resized to size × size pixels."""
    x1, y1, x2, y2 = (int(edge) for edge in box)
    H, W = image.shape[:2]
    view = np.full((y2 - y1, x2 - x1, 3), BEYOND, np.uint8)
    top, left, bottom, right = max(y1, 0), max(x1, 0), min(y2, H), min(x2, W)
    if top < bottom and left < right:
        view[top - y1 : bottom - y1, left - x1 : right - x1] = image[top:bottom, left:right]
    return cv2.resize(view, (size, size), interpolation=cv2.INTER_AREA if y2 - y1 > size else cv2.INTER_LINEAR)


def crop_mask(mask: Bool[np.ndarray, "H W"], box: Box, size: int) -> Bool[np.ndarray, "size size"]:
    """What `crop` shows of a mask: to be drawn on a cropped image, where contours are as fine as the crop's pixels."""
    return crop(np.repeat(mask[..., None].astype(np.uint8) * 255, 3, 2), box, size)[..., 0] > 127


def captioned(image: Image, caption: str) -> UInt8[np.ndarray, "_H W 3"]:
    """The image below a text, in as many lines as its width asks for."""
    scale = 0.4
    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and cv2.getTextSize(longer, FONT, scale, 1)[0][0] > image.shape[1] - 8:
            longer = word
            lines.append("")
        lines[-1] = longer
    (_, height), base = cv2.getTextSize("Ag", FONT, scale, 1)
    step = height + base + 4
    bar = np.full((step * len(lines) + 4, image.shape[1], 3), DARK, np.uint8)
    for number, line in enumerate(lines):
        cv2.putText(bar, line, (4, number * step + height + 4), FONT, scale, LIGHT, 1, cv2.LINE_AA)
    return np.concatenate([bar, image])


def grid(
    pictures: Sequence[UInt8[np.ndarray, "_H _W 3"]],
    captions: Sequence[str] = (),
    columns: int | None = None,
    gap: int = 6,
) -> UInt8[np.ndarray, "_H _W 3"]:
    """A sheet of pictures, row by row, each at the top left of its cell, with captions above them.

    Args:
      captions: one for each picture, or none.
      columns: pictures of a row; by itself as many as rows, or one more.
      gap: pixels between them and around.

    Errors:
      ValueError: no picture, or captions that are not one for each.
    """
    if not pictures:
        raise InvalidInput("a sheet needs at least one picture")
    if captions:
        pictures = [captioned(picture, text) for picture, text in zip(pictures, captions, strict=True)]
    columns = min(columns or int(np.ceil(np.sqrt(len(pictures)))), len(pictures))
    rows = [pictures[n : n + columns] for n in range(0, len(pictures), columns)]
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    widths = [max(row[n].shape[1] for row in rows if n < len(row)) for n in range(columns)]
    sheet = np.full((sum(heights) + gap * (len(rows) + 1), sum(widths) + gap * (columns + 1), 3), DARK, np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            y, x = sum(heights[:r]) + gap * (r + 1), sum(widths[:c]) + gap * (c + 1)
            sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return sheet


def line_width(image: Image) -> int:
    """Of lines that are seen when the whole image is looked at."""
    return max(1, round(max(image.shape[:2]) / 400))


def _laid(
    values: Float[np.ndarray, "h w"], box: Box, size: tuple[int, int]
) -> tuple[tuple[slice, slice], Int[np.ndarray, "p"], Int[np.ndarray, "q"]]:
    """The part of an image of (H, W) that lies in the box, and the row and column of cells for its pixels."""
    x1, y1, x2, y2 = (int(edge) for edge in box)
    H, W = size
    y, x = np.arange(max(y1, 0), min(y2, H)), np.arange(max(x1, 0), min(x2, W))
    part = slice(max(y1, 0), max(y1, 0) + len(y)), slice(max(x1, 0), max(x1, 0) + len(x))
    return part, _cells(y - y1, y2 - y1, values.shape[0]), _cells(x - x1, x2 - x1, values.shape[1])


def _cells(pixels: Int[np.ndarray, "p"], side: int, count: int) -> Int[np.ndarray, "p"]:
    """The cell, of `count` on a side of pixels, in which the center of each pixel lies."""
    return np.clip((2 * pixels + 1) * count // (2 * side), 0, count - 1)


def _bitmap(mask: Mapping[str, Any] | Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    return coco_mask.decode(mask).astype(bool) if isinstance(mask, Mapping) else mask


def _bounds(mask: Bool[np.ndarray, "H W"], margin: int = 0) -> tuple[slice, slice]:
    """Rows and columns of a mask's box, `margin` pixels wider where the image has them; the mask must have a pixel."""
    ends = (np.flatnonzero(mask.any(axis))[[0, -1]].tolist() for axis in (1, 0))
    return tuple(slice(max(first - margin, 0), last + 1 + margin) for first, last in ends)


def _inmost(mask: Bool[np.ndarray, "H W"]) -> tuple[int, int]:
    """(x, y) of a pixel that is as far as can be from the mask's border."""
    part = _bounds(mask)
    inside = np.pad(mask[part].astype(np.uint8), 1)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(np.argmax(distance), distance.shape)
    return part[1].start + int(x), part[0].start + int(y)


def _label(image: Image, text: str, at: tuple[int, int], color: np.ndarray, taken: Sequence[Box]) -> list[Box]:
    """Writes a text in a box of its color, where there is room next to `at`; returns the box, or nothing."""
    H, W = image.shape[:2]
    scale = max(0.4, max(H, W) / 1600)
    thickness = max(1, round(scale))
    (width, height), _ = cv2.getTextSize(text, FONT, scale, thickness)
    margin = round(8 * scale)
    width, height = width + 2 * margin, height + 2 * margin  # nothing of a number lies below the line it stands on
    if width > _MOST * W or height > _MOST * H:
        return []
    places = np.array([at[0] - width // 2, at[1] - height // 2]) + _steps() * (width, height) // 2
    boxes = np.concatenate([places, places + np.array([width, height])], 1)
    boxes -= np.tile(np.minimum(boxes[:, :2], 0) + np.maximum(boxes[:, 2:] - (W, H), 0), 2)  # into the image
    box = next((box for box in boxes.tolist() if not any(_meet(box, other) for other in taken)), None)
    if box is None:
        return []
    cv2.rectangle(image, box[:2], (box[2] - 1, box[3] - 1), color.tolist(), -1)
    ink = max(DARK, LIGHT, key=lambda ink: abs(np.log((_luminance(ink) + 0.05) / (_luminance(color) + 0.05))))
    cv2.putText(image, text, (box[0] + margin, box[3] - margin - 1), FONT, scale, ink, thickness, cv2.LINE_AA)
    return [tuple(box)]


@cache
def _steps() -> Int[np.ndarray, "n 2"]:
    """Half widths and half heights of a label by which it may be moved, the nearest first."""
    across, down = np.meshgrid(np.arange(-_REACH // 3, _REACH // 3 + 1), np.arange(-_REACH, _REACH + 1))
    steps = np.stack([across.ravel(), down.ravel()], 1)
    return steps[np.argsort(np.hypot(2.5 * steps[:, 0], steps[:, 1]), kind="stable")]  # a label is that much wider


def _luminance(color: Color) -> float:
    """Of sRGB, 0 to 1: the ratio of two of them says how well one is read on the other (WCAG)."""
    return float((np.asarray(color, np.float64) / 255) ** 2.2 @ (0.2126, 0.7152, 0.0722))


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
