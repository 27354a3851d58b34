"""Annotation files, results files and manifests with values of any kind, or with damaged bytes."""

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from benchmarks.fuzzing.mutation import changed, damaged, pick
from fastmask_jax.data.coco.held_out import hold_out, write_annotations
from fastmask_jax.data.coco.image_check import check
from fastmask_jax.data.coco.instances import read_instances
from fastmask_jax.evaluation.average_recall import average_recall, recall_by_image

_SIZE = 40, 30
_IMAGES = 4


def truth_and_results() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    truth: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 7}]}
    results = []
    for image in range(1, _IMAGES + 1):
        truth["images"].append({"id": image, "file_name": f"{image}.jpg", "height": _SIZE[0], "width": _SIZE[1]})
        mask = np.zeros(_SIZE, np.uint8, order="F")
        mask[5 : 10 + image, 3:20] = 1
        compressed = coco_mask.encode(mask)
        rle = {"size": list(_SIZE), "counts": compressed["counts"].decode()}
        flat = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0, append=2))
        plain = {"size": list(_SIZE), "counts": np.diff(np.concatenate([[0], flat])).tolist()}
        polygon = [[3, 5, 20, 5, 20, 15, 3, 15], [1, 1, 9, 1, 9, 4]]
        for number, segmentation in enumerate((rle, plain, polygon)):
            box = [3, 5, 17, 10]
            truth["annotations"].append(
                {
                    "id": 10 * image + number,
                    "image_id": image,
                    "category_id": number,
                    "iscrowd": int(number == 1),
                    "area": 170.0,
                    "bbox": box,
                    "segmentation": segmentation,
                }
            )
            entry = {"image_id": image, "category_id": 1, "score": 0.1 * number, "bbox": box}
            results.append(entry | {"segmentation": segmentation})
    return truth, results


def json_case(folder: Path):
    logging.disable(logging.WARNING)
    truth, results = truth_and_results()
    for image in truth["images"]:
        cv2.imwrite(str(folder / image["file_name"]), np.full((*_SIZE, 3), 99, np.uint8))
    sound = folder / "truth.json"
    sound.write_text(json.dumps(truth))

    def written(rng: np.random.Generator, value: Any) -> Path:
        path = folder / "changed.json"
        data = json.dumps(changed(rng, value), ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
        path.write_bytes(damaged(rng, data) if rng.random() < 0.3 else data)
        return path

    def case(rng: np.random.Generator) -> None:
        match int(rng.integers(4)):
            case 0:  # evaluate.py
                average_recall(written(rng, truth), pick(rng, [results, []]))
            case 1:  # prepare.py
                split = read_instances(written(rng, truth), folder)
                if len(split.images) > 1:
                    split, held = hold_out(split, 0.3, 0)
                    write_annotations(held, check(held, 0), folder / "val.json")
                    read_instances(folder / "val.json", folder)
                check(split, 0)
                split.report.summary()
                split.report.write(folder / "problems.json")
            case 2:  # evaluate.py --results
                average_recall(sound, written(rng, results))
            case 3:  # evaluate.py --sheet
                recall_by_image(sound, written(rng, results))

    return case
