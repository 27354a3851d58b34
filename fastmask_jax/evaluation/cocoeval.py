"""Matches proposals with objects by pycocotools' COCOeval, to check the faster matching."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fastmask_jax.masks.coco_results import CATEGORY


def recall_of_cocoeval(
    size: tuple[int, int],
    objects: Sequence[Mapping[str, Any]],
    proposals: Sequence[Mapping[str, Any]],
    kind: Literal["segm", "bbox"],
    thresholds: Float64[np.ndarray, "thresholds"],
    areas: Sequence[tuple[float | int, float | int]],
    caps: Sequence[int],
) -> Float64[np.ndarray, "thresholds areas caps"]:
    """Returns the class-agnostic recall of one image; −1 for ranges of areas without objects.

    Args:
      size: (height, width) of the image.
      objects: annotations with area, bbox, iscrowd and segmentation.
      proposals: results with score, bbox and segmentation.
    """
    image = {"id": 1, "height": size[0], "width": size[1]}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_dataset(image, objects), _dataset(image, proposals), kind)
        evaluation.params.useCats = 0
        evaluation.params.iouThrs = thresholds
        evaluation.params.maxDets = list(caps)
        evaluation.params.areaRng = [list(span) for span in areas]
        evaluation.params.areaRngLbl = [str(span) for span in areas]
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["recall"])[:, 0]


def _dataset(image: dict[str, Any], annotations: Sequence[Mapping[str, Any]]) -> COCO:
    """Creates a dataset of one image. Ids start at 1, because COCO's matching uses 0 for "not matched"."""
    coco = COCO()
    shared = {"category_id": CATEGORY, "image_id": image["id"], "area": 0.0, "iscrowd": 0}
    numbered = [{**shared, "id": n, **entry} for n, entry in enumerate(annotations, 1)]
    coco.dataset = {"images": [image], "annotations": numbered, "categories": [{"id": CATEGORY, "name": "object"}]}
    coco.createIndex()
    return coco
