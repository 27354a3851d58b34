"""Pictures of an evaluation, on an image with two squares and proposals that find one of them."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from fastmask_jax.evaluation.match_pictures import three_panels, write_pictures
from fastmask_jax.masks.drawing import distinct_colors
from fastmask_jax.masks.rle import ScoredMasks


def square(x: int, y: int, side: int, size: tuple[int, int] = (60, 80)) -> dict:
    bitmap = np.zeros(size, np.uint8, order="F")
    bitmap[y : y + side, x : x + side] = 1
    rle = coco_mask.encode(bitmap)
    return {"size": list(size), "counts": rle["counts"].decode()}


def proposals(*masks: dict) -> ScoredMasks:
    scores = np.linspace(0.9, 0.1, len(masks)).astype(np.float32)
    boxes = np.array([coco_mask.toBbox(mask) for mask in masks], np.float32).reshape(-1, 4)
    return ScoredMasks(scores, boxes, list(masks), np.arange(len(masks)), 0)


@pytest.fixture
def split(tmp_path):
    """(annotations, image folder, results) of two images with one proposal each; the second image comes first."""
    images, entries, results = [], [], []
    for image_id in (3, 5):
        cv2.imwrite(str(tmp_path / f"{image_id}.png"), np.full((60, 80, 3), 90, np.uint8))
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": 60, "width": 80})
        mask = square(10, 10, 20)
        box = [10, 10, 20, 20]
        entries.append(
            {"id": image_id, "image_id": image_id, "category_id": 1, "iscrowd": 0, "area": 400, "bbox": box}
            | {"segmentation": mask}
        )
        results.insert(0, {"image_id": image_id, "category_id": 1, "segmentation": mask, "score": 0.5, "bbox": box})
    (tmp_path / "gt.json").write_text(json.dumps({"images": images, "annotations": entries, "categories": []}))
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path / "gt.json", tmp_path, tmp_path / "results.json"


def test_as_many_pictures_as_asked_for_in_the_order_of_the_results(split, tmp_path):
    (path,) = write_pictures(*split, tmp_path / "out", 1)
    assert path.name == "5.png"
    assert len(write_pictures(*split, tmp_path / "out", 7)) == 2
    assert cv2.imread(str(path)).shape[1] > 3 * 80


def test_an_object_that_is_found_has_its_color_in_the_second_panel():
    image = np.full((60, 80, 3), 90, np.uint8)
    picture = three_panels(image, [square(10, 10, 20), square(40, 30, 25)], proposals(square(10, 10, 20)))
    second = picture[:, 86 + 6 : 86 + 6 + 80]
    color = distinct_colors(1)[0]
    assert (second == color).all(-1).any()  # the contour of the proposal that finds the first object
    assert not (second == distinct_colors(2)[1]).all(-1).any()  # nothing finds the second
    assert (picture[:, 6:86] == distinct_colors(2)[1]).all(-1).any()  # which the first panel shows


@pytest.mark.parametrize(("objects", "masks"), [([], [square(0, 0, 9)]), ([square(0, 0, 9)], []), ([], [])])
def test_nothing_to_find_or_nothing_proposed_is_drawn_all_the_same(objects, masks):
    image = np.full((60, 80, 3), 90, np.uint8)
    assert three_panels(image, objects, proposals(*masks)).dtype == np.uint8
