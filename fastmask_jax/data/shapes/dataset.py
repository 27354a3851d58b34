"""Draws the shapes dataset: textured, overlapping shapes in COCO format; the same seed gives the same files.

An object's mask is its outline as rasterized by pycocotools, minus what is drawn over it. Masks are computed before
drawing, from the nearest object to the farthest, so that objects with too few visible pixels are not drawn.
"""

import json
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from pycocotools import mask as coco_mask

from fastmask_jax.data.process_map import map_in_order
from fastmask_jax.data.shapes.outlines import SHAPES, outline
from fastmask_jax.data.shapes.textures import TEXTURES, distinct_color, random_colors, texture

_SUPERSAMPLE = 4  # of edges, along each axis
_LEAST_PIXELS = 25  # of a visible mask


@dataclass(frozen=True)
class ShapesSpec:
    """Parameters of the drawings. Lengths are in pixels; levels are out of 255."""

    image_sizes: tuple[tuple[int, int], ...] = ((240, 320), (240, 320), (320, 240), (256, 320), (224, 304))  # (h, w)
    objects: tuple[int, int] = (1, 6)  # objects tried per image; hidden ones are dropped
    side: tuple[float, float] = (30.0, 240.0)  # longest side, log-uniform, before cutting and hiding
    small_side: tuple[float, float] = (14.0, 30.0)  # the same for small objects
    small_share: float = 0.08  # fraction of small objects
    largest: float = 0.9  # maximum size of an object's box, as a fraction of the image's height and width
    outside: float = 0.15  # how far an object's box may extend beyond the image, as a fraction of its side
    min_visible: float = 0.6  # minimum visible fraction of an object; others are not drawn
    color_candidates: int = 12  # a color is the most distinct of this many; more make objects easier to distinguish
    object_saturation: tuple[float, float] = (0.5, 1.0)
    ground_saturation: tuple[float, float] = (0.0, 0.2)  # a muted background makes objects quick to learn
    object_contrast: tuple[float, float] = (10.0, 45.0)  # of textures, levels
    ground_contrast: tuple[float, float] = (8.0, 40.0)
    lighting: float = 0.2  # brightness changes by up to this fraction across the image
    noise: float = 4.0  # standard deviation of pixel noise, levels
    jpeg_quality: int = 92


@dataclass(frozen=True)
class Drawn:
    """A drawing: its pixels, and the shape, visible mask and COCO segmentation of every object, farthest first."""

    image: UInt8[np.ndarray, "H W 3"]  # RGB
    masks: Bool[np.ndarray, "n H W"]
    segmentations: list[Any] = field(
        repr=False
    )  # polygons where wholly visible, else compressed RLE; decode to `masks`
    shapes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Object:
    shape: str
    curves: list[Float[np.ndarray, "points 2"]]  # x, y in the image
    mask: Bool[np.ndarray, "H W"]  # visible
    whole: bool  # without hidden parts and holes: the outline describes the mask


def draw(spec: ShapesSpec, seed: tuple[int, ...]) -> Drawn:
    """Draws the picture of a `seed`, any tuple of integers."""
    rng = np.random.default_rng(seed)
    height, width = spec.image_sizes[rng.integers(len(spec.image_sizes))]
    objects = _arrange(spec, rng, height, width)
    image = _paint(spec, rng, objects, height, width)
    return Drawn(
        image,
        np.array([o.mask for o in objects], bool).reshape(-1, height, width),
        [_segmentation(o) for o in objects],
        [o.shape for o in objects],
    )


def _arrange(spec: ShapesSpec, rng: np.random.Generator, height: int, width: int) -> list[_Object]:
    """Places objects that are sufficiently visible, farthest first; larger ones tend to be farther."""
    number = int(rng.integers(spec.objects[0], spec.objects[1] + 1))
    small = rng.random(number) < spec.small_share
    low, high = np.where(small[:, None], spec.small_side, spec.side).T
    sides = np.exp(rng.uniform(np.log(low), np.log(high)))
    farness = np.log(sides) + rng.normal(0, 0.4, number)
    covered = np.zeros((height, width), bool)
    kept: list[_Object] = []
    for side in sides[np.argsort(farness)]:
        shape = SHAPES[rng.integers(len(SHAPES))]
        curves = outline(rng, shape, side)
        extent = np.ptp(curves[0], axis=0)
        shrink = min(1.0, spec.largest * width / extent[0], spec.largest * height / extent[1])
        half = extent * shrink / 2
        slack = half * (1 - 2 * spec.outside)
        center = rng.uniform(slack, np.array([width, height]) - slack)
        # Rounded as in the JSON file, so that readers rasterize the same mask.
        curves = [np.round(curve * shrink + center, 2) for curve in curves]
        full = _rasterized(curves, height, width)
        visible = full & ~covered
        pixels = int(visible.sum())
        if pixels < max(_LEAST_PIXELS, spec.min_visible * full.sum()):
            continue
        inside = (center - half >= 0).all() and (center + half <= [width, height]).all()
        whole = bool(inside) and len(curves) == 1 and pixels == int(full.sum())
        covered |= full
        kept.append(_Object(shape, curves, visible, whole))
    return kept[::-1]


def _rasterized(curves: list[Float[np.ndarray, "points 2"]], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """Returns the pixels inside an odd number of the curves, each rasterized by pycocotools."""
    rles = coco_mask.frPyObjects([curve.ravel().tolist() for curve in curves], height, width)
    return np.bitwise_xor.reduce(coco_mask.decode(rles), axis=2).astype(bool)


def _segmentation(shape: _Object) -> list[list[float]] | dict[str, Any]:
    """Returns a COCO segmentation that decodes to exactly the visible mask."""
    if shape.whole:
        return [shape.curves[0].ravel().tolist()]
    rle = coco_mask.encode(np.asfortranarray(shape.mask, np.uint8))
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _paint(
    spec: ShapesSpec, rng: np.random.Generator, objects: list[_Object], height: int, width: int
) -> UInt8[np.ndarray, "H W 3"]:
    """Paints RGB pixels: background, objects from the farthest with smooth edges, light and noise."""
    colors = random_colors(rng, 1, spec.ground_saturation)
    image = _textured(rng, height, width, colors[0], spec.ground_contrast)
    for item in objects:
        color = distinct_color(rng, colors, spec.color_candidates, spec.object_saturation)
        colors = np.concatenate([colors, color[None]])
        x1, y1 = np.maximum(np.floor(item.curves[0].min(axis=0)).astype(int), 0).tolist()
        x2, y2 = np.minimum(np.ceil(item.curves[0].max(axis=0)).astype(int), [width, height]).tolist()
        cover = _coverage([curve - [x1, y1] for curve in item.curves], y2 - y1, x2 - x1)[:, :, None]
        pixels = _textured(rng, y2 - y1, x2 - x1, color, spec.object_contrast)
        region = image[y1:y2, x1:x2]
        region += cover * (pixels - region)
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, spec.lighting)
    x = np.linspace(-0.5, 0.5, width, dtype=np.float32) * np.float32(np.cos(angle) * strength)
    y = np.linspace(-0.5, 0.5, height, dtype=np.float32) * np.float32(np.sin(angle) * strength)
    image *= (1 + x[None] + y[:, None])[:, :, None]
    image += rng.standard_normal((height, width, 1), np.float32) * np.float32(spec.noise)
    return np.clip(image, 0, 255).astype(np.uint8)


def _textured(
    rng: np.random.Generator, height: int, width: int, color: Float32[np.ndarray, "3"], contrast: tuple[float, float]
) -> Float32[np.ndarray, "h w 3"]:
    kind = TEXTURES[rng.integers(len(TEXTURES))]
    return np.clip(texture(rng, kind, height, width, color, rng.uniform(*contrast)), 0, 255)


def _coverage(curves: list[Float[np.ndarray, "points 2"]], height: int, width: int) -> Float32[np.ndarray, "h w"]:
    """Returns the fraction of each pixel inside the outline."""
    fine = np.zeros((height * _SUPERSAMPLE, width * _SUPERSAMPLE), np.uint8)
    # OpenCV places the centers of fine pixels at integers.
    corners = [np.round(curve * _SUPERSAMPLE - 0.5).astype(np.int32) for curve in curves]
    cv2.fillPoly(fine, corners, 255)
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def write_split(
    spec: ShapesSpec, root: Path, split_name: str, number: int, seed: tuple[int, ...], first_image_id: int, workers: int
) -> Path:
    """Draws a split: JPEG files in `root`/images and `root`/annotations/instances_<split_name>.json, which it returns.

    Args:
      spec: parameters of the drawings.
      root: output folder; created if missing.
      split_name: part of the file names.
      number: number of images.
      seed: seed of the split; image k is drawn from (*seed, k).
      first_image_id: image ids are `first_image_id` + k; annotation ids start there, too.
      workers: worker processes; 0: none.
    """
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    job = partial(_write_image, spec, root / "images", split_name, seed, first_image_id)
    images, annotations = [], []
    for image, objects in map_in_order(job, range(number), workers, f"drawing {split_name}"):
        images.append(image)
        annotations += objects
    for object_id, entry in enumerate(annotations, first_image_id):
        entry["id"] = object_id
    content = {
        "info": {"description": "shapes: drawn by fastmask_jax", "seed": list(seed), "spec": asdict(spec)},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": n, "name": name} for n, name in enumerate(SHAPES, 1)],
    }
    path = root / "annotations" / f"instances_{split_name}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def _write_image(
    spec: ShapesSpec, folder: Path, split_name: str, seed: tuple[int, ...], first_image_id: int, number: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draws and writes one JPEG; returns its image entry and its annotation entries (without ids)."""
    drawn = draw(spec, (*seed, number))
    name = f"{split_name}_{number:06d}.jpg"
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(drawn.image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, spec.jpeg_quality]
    )
    (folder / name).write_bytes(data.tobytes())
    height, width = drawn.image.shape[:2]
    image = {"id": first_image_id + number, "file_name": name, "height": height, "width": width}
    annotations = []
    for mask, segmentation, shape in zip(drawn.masks, drawn.segmentations, drawn.shapes, strict=True):
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        annotations.append(
            {
                "image_id": image["id"],
                "category_id": SHAPES.index(shape) + 1,
                "segmentation": segmentation,
                "bbox": [int(xs[0]), int(ys[0]), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1],
                "area": int(mask.sum()),
                "iscrowd": 0,
            }
        )
    return image, annotations
