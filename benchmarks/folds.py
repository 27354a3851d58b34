"""Splits a COCO annotation file by images, so that a recipe can be chosen without looking at the validation images.

    python benchmarks/folds.py --annotations instances_train.json --folds 5 --out FOLDER

writes FOLDER/train_K.json and FOLDER/held_K.json for each fold K. Every image is held out once, by sorted id.
"""

import argparse
import json
from pathlib import Path
from typing import Any


def part(coco: dict[str, Any], image_ids: set[int]) -> dict[str, Any]:
    """Returns the annotation file restricted to some of its images."""
    return {
        **coco,
        "images": [image for image in coco["images"] if image["id"] in image_ids],
        "annotations": [one for one in coco["annotations"] if one["image_id"] in image_ids],
    }


def split(annotations: Path, folds: int, fold: int, out: Path) -> tuple[Path, Path]:
    """Writes the annotation files of one fold to `out`; returns the paths of the training and the held-out part."""
    coco = json.loads(annotations.read_text())
    ids = sorted(image["id"] for image in coco["images"])
    held = set(ids[fold::folds])
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, chosen in (("train", set(ids) - held), ("held", held)):
        paths.append(out / f"{name}_{fold}.json")
        paths[-1].write_text(json.dumps(part(coco, chosen)))
        print(f"{paths[-1]}: {len(chosen)} images")
    return paths[0], paths[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args()
    if options.folds < 2:
        parser.error(f"--folds {options.folds}: at least 2")
    for fold in range(options.folds):
        split(options.annotations, options.folds, fold, options.out)


if __name__ == "__main__":
    main()
