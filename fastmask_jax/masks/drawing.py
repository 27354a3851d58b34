"""Draws pictures of proposals: masks, windows, attention, grids. Pure functions: uint8 RGB in, new uint8 RGB out.

Coordinates are pixels of the picture; boxes are edges (x1, y1, x2, y2) as in `geometry`, where pixel k covers
[k, k + 1), and may extend beyond the picture. Letters: H, W sides of a picture; m masks.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
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
BEYOND = 96  # gray level outside the image
PALETTE = 240
_MOST = 0.5  # maximum size of a label, as a fraction of the image's sides: larger labels would hide the image
_REACH = 12  # how far a label may be moved: label heights, and a third of that in label widths


@cache
def _palette() -> Colors:
    """Returns colors ordered such that each is as far as possible, in CIE Lab, from all before it.

    Dark, pale and grayish colors are excluded: all stand out from the background and can carry black or white text.
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


def write_png(path: Path, picture: UInt8[np.ndarray, "_H _W 3"]) -> bytes:
    """Writes an RGB picture as PNG and returns the file's bytes.

    Raises:
      OSError: it cannot be written, which `cv2.imwrite` would not say.
    """
    png = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
    path.write_bytes(png)
    return png


def distinct_colors(count: int) -> UInt8[np.ndarray, "count 3"]:
    """Returns the first `count` RGB colors of a fixed sequence; neighbors and first colors are easy to distinguish.

    Color k is always the same; the sequence repeats after 240 colors.
    """
    return _palette()[np.arange(count) % PALETTE]


def overlay(
    image: Image,
    masks: Masks,
    labels: Sequence[str] = (),
    colors: Colors | None = None,
    opacity: float = 0.45,
) -> Image:
    """Draws filled masks with contours and labels on the image; the first mask is on top.

    Args:
      masks: bitmaps, or RLE of the image's size as `ScoredMasks.segmentations` has it, best first.
      labels: a text for each mask, or none. A label without room is omitted, because overlapping labels are
        unreadable.
      colors: colors of the masks; None: the first of `distinct_colors`.
      opacity: opacity of the fill, 0 to 1.

    Raises:
      ValueError: numbers or sizes do not match.
    """
    if not 0 <= opacity <= 1:
        raise InvalidInput(f"opacity={opacity}: expected a value between 0 (contours only) and 1")
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
    """Draws the contour of a mask, with a dark outer line, so that it is visible on any background.

    The contour lies inside the mask and is omitted at the image border. It is `width` pixels wide; None: `line_width`.
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
    """Draws the border of a rectangle and a dark inner line, inside the rectangle and clipped to the image."""
    result = image.copy()
    width = line_width(image)
    y, x = np.ogrid[: image.shape[0], : image.shape[1]]
    x1, y1, x2, y2 = (int(edge) for edge in box)
    depth = np.minimum(np.minimum(x - x1, x2 - 1 - x), np.minimum(y - y1, y2 - 1 - y))  # 0 on the outermost pixels
    shown = (x - x1 + y - y1) // (4 * width) % 2 == 0 if dashed else True
    result[(depth >= 0) & (depth < width) & shown] = color
    result[(depth == width) & shown] = DARK
    return result


def dots(image: Image, points: Int[np.ndarray, "n 2"], color: Color, cross: bool = False) -> Image:
    """Draws a disc, or a cross, with a dark edge at each (x, y)."""
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
    """Draws values from 0 (dark) to 1 (bright yellow) as cells over the box, clipped to the image.

    The image is gray under the cells, so that its colors are not mistaken for values.
    """
    part, rows, columns = _laid(values, box, image.shape[:2])
    result = image.copy()
    level = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    tint = cv2.applyColorMap(level, cv2.COLORMAP_INFERNO)[rows[:, None], columns, ::-1].astype(np.float32)
    gray = image[part] @ GRAY
    result[part] = np.rint((1 - opacity) * gray[..., None] + opacity * tint).astype(np.uint8)
    return result


def spread(values: Float[np.ndarray, "h w"], box: Box, size: tuple[int, int]) -> Float32[np.ndarray, "H W"]:
    """Writes values as cells over the box into an array of (H, W), clipped to the image; 0 elsewhere."""
    part, rows, columns = _laid(values, box, size)
    result = np.zeros(size, np.float32)
    result[part] = values[rows[:, None], columns]
    return result


def crop(image: Image, box: Box, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Crops the box, gray outside the image, and resizes it to size × size pixels."""
    x1, y1, x2, y2 = (int(edge) for edge in box)
    H, W = image.shape[:2]
    view = np.full((y2 - y1, x2 - x1, 3), BEYOND, np.uint8)
    top, left, bottom, right = max(y1, 0), max(x1, 0), min(y2, H), min(x2, W)
    if top < bottom and left < right:
        view[top - y1 : bottom - y1, left - x1 : right - x1] = image[top:bottom, left:right]
    return cv2.resize(view, (size, size), interpolation=cv2.INTER_AREA if y2 - y1 > size else cv2.INTER_LINEAR)


def crop_mask(mask: Bool[np.ndarray, "H W"], box: Box, size: int) -> Bool[np.ndarray, "size size"]:
    """Crops a mask like `crop`, to draw it on a cropped image with contours at the resolution of the crop."""
    return crop(np.repeat(mask[..., None].astype(np.uint8) * 255, 3, 2), box, size)[..., 0] > 127


def captioned(image: Image, caption: str) -> UInt8[np.ndarray, "_H W 3"]:
    """Adds a caption above the image, wrapped to its width."""
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
    """Arranges pictures in a grid, row by row, each in the top left corner of its cell, with captions above.

    Args:
      captions: one for each picture, or none.
      columns: pictures per row; None: as many as rows, or one more.
      gap: pixels between and around the pictures.

    Raises:
      ValueError: no pictures, or another number of captions.
    """
    if not pictures:
        raise InvalidInput("a grid needs at least one picture")
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
    """Returns the width of lines that are visible when the whole image is shown."""
    return max(1, round(max(image.shape[:2]) / 400))


def _laid(
    values: Float[np.ndarray, "h w"], box: Box, size: tuple[int, int]
) -> tuple[tuple[slice, slice], Int[np.ndarray, "p"], Int[np.ndarray, "q"]]:
    """Returns the part of an image of (H, W) inside the box, and the cell row and column of each of its pixels."""
    x1, y1, x2, y2 = (int(edge) for edge in box)
    H, W = size
    y, x = np.arange(max(y1, 0), min(y2, H)), np.arange(max(x1, 0), min(x2, W))
    part = slice(max(y1, 0), max(y1, 0) + len(y)), slice(max(x1, 0), max(x1, 0) + len(x))
    return part, _cells(y - y1, y2 - y1, values.shape[0]), _cells(x - x1, x2 - x1, values.shape[1])


def _cells(pixels: Int[np.ndarray, "p"], side: int, count: int) -> Int[np.ndarray, "p"]:
    """Returns the cell, of `count` along a side of pixels, that contains the center of each pixel."""
    return np.clip((2 * pixels + 1) * count // (2 * side), 0, count - 1)


def _bitmap(mask: Mapping[str, Any] | Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    return coco_mask.decode(mask).astype(bool) if isinstance(mask, Mapping) else mask


def _bounds(mask: Bool[np.ndarray, "H W"], margin: int = 0) -> tuple[slice, slice]:
    """Returns rows and columns of a nonempty mask's box, extended by `margin` pixels within the image."""
    ends = (np.flatnonzero(mask.any(axis))[[0, -1]].tolist() for axis in (1, 0))
    return tuple(slice(max(first - margin, 0), last + 1 + margin) for first, last in ends)


def _inmost(mask: Bool[np.ndarray, "H W"]) -> tuple[int, int]:
    """Returns (x, y) of a pixel with maximum distance from the mask's border."""
    part = _bounds(mask)
    inside = np.pad(mask[part].astype(np.uint8), 1)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(np.argmax(distance), distance.shape)
    return part[1].start + int(x), part[0].start + int(y)


def _label(image: Image, text: str, at: tuple[int, int], color: np.ndarray, taken: Sequence[Box]) -> list[Box]:
    """Writes a text in a colored box where there is room near `at`; returns [the box], or [] without room."""
    H, W = image.shape[:2]
    scale = max(0.4, max(H, W) / 1600)
    thickness = max(1, round(scale))
    (width, height), _ = cv2.getTextSize(text, FONT, scale, thickness)
    margin = round(8 * scale)
    width, height = width + 2 * margin, height + 2 * margin  # digits do not extend below the baseline
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
    """Returns offsets of a label in half widths and half heights, the nearest first."""
    across, down = np.meshgrid(np.arange(-_REACH // 3, _REACH // 3 + 1), np.arange(-_REACH, _REACH + 1))
    steps = np.stack([across.ravel(), down.ravel()], 1)
    return steps[np.argsort(np.hypot(2.5 * steps[:, 0], steps[:, 1]), kind="stable")]  # labels are wider than high


def _luminance(color: Color) -> float:
    """Computes the relative luminance of an sRGB color, 0 to 1, for contrast ratios (WCAG)."""
    return float((np.asarray(color, np.float64) / 255) ** 2.2 @ (0.2126, 0.7152, 0.0722))


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
