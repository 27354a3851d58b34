"""Converts annotation entries of one image to objects with RLE masks; reports and skips invalid ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from pycocotools import mask as coco_mask

from fastmask_jax.data.coco.problem_report import Problem
from fastmask_jax.foreign_json import DECODER, flag, is_shallow, number_of, whole_number
from fastmask_jax.masks.rle import MOST_PIXELS, run_lengths

Found = list[tuple[Problem, str]]

SLACK, SLACK_SHARE = 8.0, 0.1  # tolerance between box and mask: pixels, and fraction of a side
AREA_FACTOR = 3.0  # COCO's areas are 0.7 to 1.7 times the areas of the masks
FAR = 10_000  # pixels beyond the image; rasterizing a polygon takes time and memory proportional to its length
LONGEST_OUTLINE = 10_000_000  # pixels of all polygons of an object; pycocotools takes about 100 bytes per pixel


class Rejected(Exception):
    """Raised for an annotation that cannot be used; args: the Problem."""


@dataclass(frozen=True, slots=True)
class CocoObject:
    """An object of an image, in pixels of the image file."""

    object_id: int
    box: tuple[float, float, float, float]  # x, y, w, h; within the image; chosen like the area
    area: float  # the annotation's; the mask's if it has none, or one that does not fit
    crowd: bool
    counts: bytes  # compressed COCO run lengths of the mask, at the image's size


def objects_of(
    annotations: list[dict[str, Any]], size: tuple[int, int], image_name: str
) -> tuple[list[CocoObject], Found]:
    """Returns the usable objects of one image and the problems of the others.

    Objects partly outside are clipped to the image. An invalid polygon among valid ones is skipped alone.

    Args:
      annotations: annotation entries with an integer `id`.
      size: (height, width) of the image file.
      image_name: name of the image in problems.
    """
    objects: list[CocoObject] = []
    found: Found = []
    for entry in annotations:
        where = f"annotation {entry['id']} of {image_name}"
        problems: list[Problem] = []
        try:
            objects.append(_object(entry, size, problems))
        except Rejected as rejected:
            problems.append(rejected.args[0])
        found += [(problem, where) for problem in dict.fromkeys(problems)]
    return objects, found


def _object(entry: dict[str, Any], size: tuple[int, int], problems: list[Problem]) -> CocoObject:
    segmentation = _decoded_text(entry.get("segmentation"))
    if isinstance(segmentation, dict) and segmentation:
        rle = _checked_rle(segmentation, size)
    elif (
        isinstance(segmentation, list)
        and segmentation
        and all(isinstance(one, dict) for one in segmentation)
        and not _are_points(segmentation)
    ):
        rle = coco_mask.merge([_checked_rle(one, size) for one in segmentation])
    elif isinstance(segmentation, list) and segmentation:
        rle = _rasterized(segmentation, size, problems)
    else:
        raise Rejected(Problem.NO_SEGMENTATION)
    mask_area = float(coco_mask.area(rle))
    if mask_area == 0:
        raise Rejected(Problem.EMPTY_MASK)
    mask_box = tuple(float(v) for v in coco_mask.toBbox(rle))
    box = _box(entry.get("bbox"), size)
    if entry.get("bbox") is not None and box is None:
        problems.append(Problem.BOX)
    elif box is not None and not _fits(box, mask_box):
        problems.append(Problem.BOX_ELSEWHERE)
        box = None
    crowd = flag(entry.get("iscrowd"))
    if crowd is None:
        problems.append(Problem.CROWD)
    area = _area(entry.get("area"), mask_area)
    if area is None:
        problems.append(Problem.AREA)
    return CocoObject(entry["id"], box or mask_box, area or mask_area, bool(crowd), rle["counts"])


def _area(stated: Any, mask_area: float) -> float | None:
    """Returns the area that an annotation states, the mask's if it states none (null or NaN), None if it is wrong."""
    number = number_of(stated)
    if stated is None or number != number:
        return mask_area
    fits = number is not None and max(0, mask_area / AREA_FACTOR - SLACK) < number < mask_area * AREA_FACTOR + SLACK
    return float(number) if fits else None


def _decoded_text(segmentation: Any) -> Any:
    """Returns a segmentation that is JSON in a text, as tables keep it, decoded; any other unchanged."""
    if isinstance(segmentation, str):
        try:
            segmentation = DECODER.decode(segmentation)
        except (ValueError, RecursionError):
            return None
        return segmentation if is_shallow(segmentation) else None
    return segmentation


def _numbers(values: Any) -> Float[np.ndarray, "N"] | None:
    """Returns a flat JSON list of numbers as float64; None for anything else. NaN and infinities are allowed.

    Numbers may stand as texts.
    """
    if not isinstance(values, list):
        return None
    if not all(isinstance(v, int | float) for v in values):
        values = [number_of(v) for v in values]
        if None in values:
            return None
    try:
        return np.array(values, np.float64)
    except OverflowError:  # a whole number beyond float64
        return None


def _box(bbox: Any, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """Clips an annotation's box (x, y, w, h) to the image; None if nothing remains."""
    numbers = _numbers(bbox)
    if numbers is None or len(numbers) != 4 or not np.isfinite(numbers).all() or (numbers[2:] <= 0).any():
        return None
    x, y, w, h = numbers.tolist()
    x1, y1 = max(x, 0.0), max(y, 0.0)
    x2, y2 = min(x + w, float(size[1])), min(y + h, float(size[0]))
    return (x1, y1, x2 - x1, y2 - y1) if x2 > x1 and y2 > y1 else None


def _fits(box: tuple[float, ...], mask_box: tuple[float, ...]) -> bool:
    """Returns whether two boxes (x, y, w, h) match: their edges differ by some pixels, or by a tenth of a side.

    In COCO, boxes and masks come from the same polygons, and still differ by up to 7 pixels for small objects.
    """
    edges, wanted = (np.array([x, y, x + w, y + h]) for x, y, w, h in (box, mask_box))
    slack = np.maximum(SLACK, SLACK_SHARE * np.array(mask_box[2:]))
    return bool((np.abs(edges - wanted) <= np.tile(slack, 2)).all())


def _rasterized(polygons: list[Any], size: tuple[int, int], problems: list[Problem]) -> dict[str, Any]:
    """Rasterizes the union of an object's polygons as compressed RLE; adds invalid ones to `problems`."""
    height, width = size
    sound = []
    for polygon in _flat(polygons):
        numbers = _numbers(polygon)
        if numbers is None or not _is_polygon(numbers):
            problems.append(Problem.POLYGON)
        elif (numbers >= 0).all() and (numbers <= 1).all() and min(size) > 2:
            problems.append(Problem.POLYGON_RELATIVE)
        elif (numbers < -FAR).any() or (numbers > max(size) + FAR).any():
            problems.append(Problem.POLYGON_FAR)
        else:
            sound.append(numbers)
    if not sound:
        raise Rejected(problems.pop())
    # pycocotools would treat a first list of four numbers as a box.
    low = np.min([p.reshape(-1, 2).min(0) for p in sound], axis=0)
    high = np.max([p.reshape(-1, 2).max(0) for p in sound], axis=0)
    if low[0] >= width or low[1] >= height or high[0] <= 0 or high[1] <= 0:
        raise Rejected(Problem.OUTSIDE)
    if sum(_outline(polygon) for polygon in sound) > LONGEST_OUTLINE:
        raise Rejected(Problem.POLYGON_LONG)
    return coco_mask.merge(coco_mask.frPyObjects([p.tolist() for p in sound], height, width))


def _outline(numbers: Float[np.ndarray, "N"]) -> float:
    """Returns the number of pixels that the sides of a polygon x, y, x, y, … pass."""
    points = numbers.reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(1).sum())


def _flat(polygons: list[Any]) -> list[Any]:
    """Converts polygons to lists x, y, x, y, …

    A polygon is such a list, or a list of points [x, y] or {"x": x, "y": y}; one alone is a list of one. Lists of
    polygons in a list count as their polygons. Anything else is returned unchanged.
    """
    if not any(isinstance(polygon, list) for polygon in polygons) or _are_points(polygons):
        return [_xyxy(polygons)]
    flat = []
    for polygon in polygons:
        inner = isinstance(polygon, list) and polygon and not _are_points(polygon)
        nested = inner and all(isinstance(one, list) and len(one) > 2 for one in polygon)
        flat += _flat(polygon) if nested else [_xyxy(polygon)]
    return flat


def _xyxy(polygon: Any) -> Any:
    if not _are_points(polygon):
        return polygon
    return [v for point in polygon for v in ((point["x"], point["y"]) if isinstance(point, dict) else point)]


def _are_points(values: Any) -> bool:
    """Returns whether this is a list of three or more points: pairs of numbers, or objects with x and y."""
    return isinstance(values, list) and len(values) >= 3 and all(_is_point(point) for point in values)


def _is_point(point: Any) -> bool:
    if isinstance(point, dict):
        return "x" in point and "y" in point
    return isinstance(point, list) and len(point) == 2 and not any(isinstance(v, list) for v in point)


def _is_polygon(numbers: Float[np.ndarray, "N"]) -> bool:
    """Returns whether x, y, x, y, … are three or more finite points that are not collinear."""
    if len(numbers) < 6 or len(numbers) % 2 or not np.isfinite(numbers).all():
        return False
    offsets = numbers.reshape(-1, 2) - numbers[:2]
    far = offsets[np.abs(offsets).sum(1).argmax()]
    with np.errstate(over="ignore", invalid="ignore"):  # of numbers beyond 1e154, which are no coordinates
        return bool((np.abs(offsets[:, 0] * far[1] - offsets[:, 1] * far[0]) > 1e-9 * (far @ far)).any())


def _checked_rle(segmentation: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Returns compressed RLE of the image's size; validates run lengths, because pycocotools does not."""
    sides = segmentation.get("size")
    if sides is not None and not (isinstance(sides, list) and [whole_number(side) for side in sides] == list(size)):
        raise Rejected(Problem.RLE_SIZE)
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        runs = run_lengths(counts.encode(errors="replace"))
    else:
        numbers = _numbers(counts)
        whole = numbers is not None and (np.abs(numbers) <= MOST_PIXELS).all() and (numbers == np.rint(numbers)).all()
        runs = numbers.astype(np.int64) if whole else None
    if runs is None or not len(runs) or (runs < 0).any() or (runs > size[0] * size[1]).any():
        raise Rejected(Problem.RLE)
    if runs.sum() != size[0] * size[1]:
        raise Rejected(Problem.RLE)
    return coco_mask.frPyObjects({"size": list(size), "counts": runs.tolist()}, *size)
