"""Draws pictures of an evaluation: objects, the proposals that match them, and the top proposals."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from pycocotools import mask as coco_mask

from fastmask_jax.data.coco.file_names import image_path
from fastmask_jax.data.coco.instances import CocoImage, read_instances
from fastmask_jax.data.coco.objects import objects_of
from fastmask_jax.data.exif import Exif
from fastmask_jax.data.image_file import decode_image
from fastmask_jax.data.image_header import MAX_PIXELS
from fastmask_jax.masks.coco_results import read_results
from fastmask_jax.masks.drawing import distinct_colors, grid, overlay, write_png
from fastmask_jax.masks.rle import ScoredMasks
from fastmask_jax.masks.suppression import SHOWN_IOU, suppress

SEARCHED = 100  # number of top proposals that are matched with objects
SHOWN = 10  # number of proposals in the third panel


def write_pictures(
    annotations: Path, images: Path, results: Path, folder: Path, count: int, exif: Exif = "ignore"
) -> list[Path]:
    """Draws the first `count` images of a results file to `<folder>/<image id>.png`; see `three_panels`.

    Args:
      annotations: COCO instances JSON.
      images: folder of its images.
      results: COCO results JSON in which the entries of each image are contiguous, as evaluate.py writes it.
      exif: as in evaluation; see `image_file.decode_image`.
    """
    listed = {image.image_id: image for image in read_instances(annotations, None).images}
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for image_id, proposals in itertools.islice(_by_image(results), count):
        image = listed[image_id]
        pixels = decode_image(image_path(images, image.file_name).read_bytes(), exif, _pixels(image))
        size = list(pixels.shape[:2])
        objects, _ = objects_of(image.annotations, pixels.shape[:2], image.file_name)
        masks = [{"size": size, "counts": one.counts.decode()} for one in objects if not one.crowd]
        path = folder / f"{image_id}.png"
        picture = three_panels(pixels, masks, proposals)
        write_png(path, picture)
        written.append(path)
    return written


def _pixels(image: CocoImage) -> int | None:
    """Returns the number of pixels in an image's entry; a larger file is not the evaluated one."""
    return math.prod(image.size) if image.size else MAX_PIXELS


def three_panels(
    image: UInt8[np.ndarray, "H W 3"], objects: list[dict], proposals: ScoredMasks
) -> UInt8[np.ndarray, "_H _W 3"]:
    """Draws the objects; the best of 100 proposals for each object, in its color and with its IoU; the top proposals.

    Args:
      image: original RGB.
      objects: RLE masks of the objects.
      proposals: proposals of this image, highest score first.
    """
    matches, iou = _best_matches(objects, proposals)
    shown = suppress(proposals, SHOWN_IOU)[:SHOWN]
    found = np.flatnonzero(iou > 0)
    masks = [proposals.segmentations[n] for n in matches[found]]
    panels = [
        overlay(image, objects),
        overlay(image, masks, [f"{value:.2f}" for value in iou[found]], distinct_colors(len(objects))[found]),
        overlay(image, [proposals.segmentations[n] for n in shown], [f"{proposals.scores[n]:.2f}" for n in shown]),
    ]
    captions = [
        f"objects: {len(objects)}",
        f"found: mean IoU {iou.mean():.2f}" if len(iou) else "nothing to find",
        f"best {len(shown)} that differ, scores",
    ]
    return grid(panels, captions, columns=3)


def _best_matches(objects: list[dict], proposals: ScoredMasks) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Returns the index and IoU of the best proposal of each object; IoU 0 if there is none."""
    masks = proposals.segmentations[:SEARCHED]
    if not objects or not masks:
        return np.zeros(len(objects), np.int64), np.zeros(len(objects))
    iou = np.asarray(coco_mask.iou(masks, objects, [0] * len(objects)))  # [proposals, objects]
    return iou.argmax(0), iou.max(0)


def _by_image(results: Path) -> Iterator[tuple[int, ScoredMasks]]:
    for image_id, group in itertools.groupby(read_results(results), key=lambda entry: entry["image_id"]):
        entries = sorted(group, key=lambda entry: -entry["score"])
        yield (
            image_id,
            ScoredMasks(
                scores=np.array([entry["score"] for entry in entries], np.float32),
                boxes=np.array([entry["bbox"] for entry in entries], np.float32),
                segmentations=[entry["segmentation"] for entry in entries],
                kept=np.arange(len(entries)),
                empty=0,
            ),
        )
