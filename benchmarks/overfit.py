"""Overfits the full network to four COCO images and prints average recall on them.

    python benchmarks/overfit.py --annotations instances_train.json --images FOLDER --workdir runs/overfit

These are the first four landscape images by id that have no crowd and at least five objects, each of at least 32²
pixels and at least 120 pixels long. Recall over their medium and large objects should reach 0.6.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

LONGEST_SIDE, OBJECTS, IMAGES = 120, 5, 4


def choose(content: dict) -> dict:
    """Returns the COCO instances file restricted to the four images."""
    objects: dict[int, list[dict]] = {}
    for entry in content["annotations"]:
        objects.setdefault(entry["image_id"], []).append(entry)

    def suits(image: dict) -> bool:
        own = objects.get(image["id"], [])
        large = [o for o in own if o["area"] >= 32**2]
        long_enough = all(max(o["bbox"][2:]) >= LONGEST_SIDE for o in large)
        landscape = image["width"] == 640 and image["height"] <= 480
        return landscape and len(large) >= OBJECTS and long_enough and not any(o["iscrowd"] for o in own)

    images = [image for image in sorted(content["images"], key=lambda image: image["id"]) if suits(image)][:IMAGES]
    annotations = [entry for image in images for entry in objects[image["id"]]]
    return {"images": images, "annotations": annotations, "categories": content["categories"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--workdir", type=Path, default=Path("runs/overfit"))
    options, overrides = parser.parse_known_args()

    chosen = options.workdir / "four.json"
    records = options.workdir / "records" / "train"
    options.workdir.mkdir(parents=True, exist_ok=True)
    four = choose(json.loads(options.annotations.read_text()))
    chosen.write_text(json.dumps(four))
    large = sum(entry["area"] >= 32**2 for entry in four["annotations"])
    print(f"images {[image['id'] for image in four['images']]}, {large} medium and large objects", flush=True)

    def call(*command: object) -> None:
        subprocess.run([sys.executable, *map(str, command)], check=True)

    if not records.exists():
        call("prepare.py", "coco", "--annotations", chosen, "--images", options.images, "--out", records.parent)
    common = ["--config", "configs/overfit.py", "--workdir", options.workdir, *overrides]
    call("train.py", *common, f"--config.data.records={records}")
    call("evaluate.py", *common, "--annotations", chosen, "--images", options.images)
    metrics = json.loads((options.workdir / "metrics.json").read_text())
    areas = [(entry["area"] >= 96**2) for entry in four["annotations"] if entry["area"] >= 32**2]
    share = sum(areas) / len(areas)
    both = share * metrics["segm/AR_large@100"] + (1 - share) * metrics["segm/AR_medium@100"]
    print(f"segment AR@100 over the {large} medium and large objects: {both:.3f}")


if __name__ == "__main__":
    main()
