"""COCO dataset: FOLDER/annotations.json with images, annotations and one category.

CVAT and Label Studio open it, and `prepare.py coco` accepts it as training data.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastmask_jax.apps.predict.formats.annotated_image import LABEL, AnnotatedImage, Write
from fastmask_jax.apps.predict.formats.whole_text_file import whole_text_file
from fastmask_jax.masks.coco_results import CATEGORY
from fastmask_jax.masks.polygons import keyholed


@contextmanager
def coco(folder: Path, tolerance: float) -> Iterator[Write]:
    """Writes polygons; a cut joins each hole to its outline. Annotations have the additional key `score`."""
    images: list[dict] = []
    written = 0

    with whole_text_file(folder / "annotations.json") as file:
        categories = [{"id": CATEGORY, "name": LABEL, "supercategory": ""}]
        file.write(f'{{"info": {{}}, "licenses": [], "categories": {json.dumps(categories)},\n"annotations": [')

        def write(image: AnnotatedImage) -> None:
            nonlocal written
            found = image.proposals
            height, width = found.image_size
            images.append({"id": image.image_id, "file_name": image.file_name, "height": height, "width": width})
            for k, parts in enumerate(found.polygons(tolerance)):
                entry = {
                    "id": written + 1,
                    "image_id": image.image_id,
                    "category_id": CATEGORY,
                    "segmentation": [keyholed(part).round(2).ravel().tolist() for part in parts],
                    "area": int(found.areas[k]),
                    "bbox": found.boxes[k].tolist(),
                    "iscrowd": 0,
                    "score": float(found.scores[k].astype(str)),
                }
                file.write((",\n" if written else "\n") + json.dumps(entry))
                written += 1

        yield write
        file.write(f'\n],\n"images": {json.dumps(images)}}}\n')
