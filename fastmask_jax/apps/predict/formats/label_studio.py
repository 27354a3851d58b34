"""Label Studio: FOLDER/tasks.json with predictions, and FOLDER/labels.xml with the matching labeling interface.

Tasks refer to images as local files: set LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT to the image folder.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np

from fastmask_jax.apps.predict.formats.annotated_image import LABEL, AnnotatedImage, Write
from fastmask_jax.apps.predict.formats.whole_text_file import whole_text_file
from fastmask_jax.masks.coco_results import JsonListWriter
from fastmask_jax.masks.polygons import one_ring

_LOCAL = "/data/local-files/?d="
_TAG, _IMAGE = "label", "image"  # names of the interface's elements, which the results refer to
_INTERFACE = f"""<View>
  <Image name="{_IMAGE}" value="${_IMAGE}" zoom="true"/>
  <PolygonLabels name="{_TAG}" toName="{_IMAGE}">
    <Label value="{LABEL}"/>
  </PolygonLabels>
</View>
"""


@contextmanager
def label_studio(folder: Path, tolerance: float) -> Iterator[Write]:
    """Writes one polygon per proposal, in percent of the image's sides; cuts join its parts."""
    with whole_text_file(folder / "labels.xml") as file:
        file.write(_INTERFACE)
    with JsonListWriter(folder / "tasks.json") as tasks:

        def write(image: AnnotatedImage) -> None:
            tasks.append(_task(image, tolerance))

        yield write


def _task(image: AnnotatedImage, tolerance: float) -> dict:
    found = image.proposals
    height, width = found.image_size
    results = [
        {
            "id": f"{image.image_id}_{rank}",
            "from_name": _TAG,
            "to_name": _IMAGE,
            "type": "polygonlabels",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": score,
            "value": {
                "points": (one_ring(parts) * (100 / np.array([width, height]))).round(4).tolist(),
                "closed": True,
                "polygonlabels": [LABEL],
            },
        }
        for rank, (parts, score) in enumerate(zip(found.polygons(tolerance), found.scores.tolist(), strict=True), 1)
    ]
    prediction = {"model_version": "fastmask_jax", "score": float(found.scores.max(initial=0)), "result": results}
    return {"data": {_IMAGE: _LOCAL + quote(image.file_name)}, "predictions": [prediction]}
