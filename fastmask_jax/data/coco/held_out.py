"""Holds out part of a dataset's images for evaluation."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from fastmask_jax.data.coco.image_check import CheckedImage
from fastmask_jax.data.coco.instances import CocoImage, CocoSplit
from fastmask_jax.errors import InvalidInput


def hold_out(split: CocoSplit, share: float, seed: int) -> tuple[CocoSplit, CocoSplit]:
    """Splits the images of a dataset into training and held-out images, both sorted by id.

    Images are ranked by a hash of the seed and their file names: the same files give the same split, and adding images
    changes it little.

    Args:
      split: all images; both parts share its report.
      share: fraction of the images to hold out, between 0 and 1; each part has at least one image.
      seed: selects one of many splits.

    Raises:
      ValueError: fewer than two images.
    """
    if len(split.images) < 2:
        raise InvalidInput(f"{len(split.images)} images cannot be split: add images, or leave out --val")
    lots = sorted(split.images, key=lambda image: _lot(image, seed))
    count = min(max(round(share * len(lots)), 1), len(lots) - 1)
    held = {image.image_id for image in lots[:count]}
    parts = ([image for image in split.images if (image.image_id in held) is out] for out in (False, True))
    kept, out = (CocoSplit(part, split.report, split.categories) for part in parts)
    return kept, out


def write_annotations(split: CocoSplit, checked: Sequence[CheckedImage], path: Path) -> None:
    """Writes the images of a split that passed the checks as a COCO instances file, with the sizes of their files."""
    sizes = {one.image.image_id: one.size for one in checked}
    images = [image for image in split.images if image.image_id in sizes]
    content = {
        "images": [
            {
                "id": image.image_id,
                "file_name": image.file_name,
                "height": sizes[image.image_id][0],
                "width": sizes[image.image_id][1],
            }
            for image in images
        ],
        "annotations": [entry | {"image_id": image.image_id} for image in images for entry in image.annotations],
        "categories": split.categories,
    }
    path.write_text(json.dumps(content), encoding="utf-8")


def _lot(image: CocoImage, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{image.file_name}".encode("utf-8", "surrogatepass")).digest()
