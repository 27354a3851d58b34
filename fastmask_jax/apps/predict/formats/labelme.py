"""labelme: FOLDER/NAME.json for each image, with polygons that labelme shows on the image."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastmask_jax.apps.predict.formats.annotated_image import LABEL, AnnotatedImage, Write
from fastmask_jax.apps.predict.formats.whole_text_file import whole_text_file
from fastmask_jax.masks.polygons import Polygon, keyholed

_VERSION = "5.5.0"  # version of the file format; unchanged in later releases of labelme


@contextmanager
def labelme(folder: Path, tolerance: float) -> Iterator[Write]:
    """Writes a polygon for each part of a mask; the parts of a proposal share a group number, its rank from 1."""

    def write(image: AnnotatedImage) -> None:
        path = folder / f"{image.name}.json"
        height, width = image.proposals.image_size
        scored = zip(image.proposals.polygons(tolerance), image.proposals.scores.tolist(), strict=True)
        content = {
            "version": _VERSION,
            "flags": {},
            "shapes": [_shape(part, rank, score) for rank, (parts, score) in enumerate(scored, 1) for part in parts],
            "imagePath": _from(path.parent, image.path),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        with whole_text_file(path) as file:
            json.dump(content, file)

    yield write


def _shape(part: Polygon, rank: int, score: float) -> dict:
    return {
        "label": LABEL,
        "points": keyholed(part).round(2).tolist(),
        "group_id": rank,
        "description": f"score {score:.3f}",
        "shape_type": "polygon",
        "flags": {},
        "mask": None,
    }


def _from(folder: Path, path: Path) -> str:
    """Returns the path relative to a folder; the absolute path if they are on different Windows drives."""
    try:
        return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    except ValueError:
        return path.absolute().as_posix()
