"""YOLO segmentation: FOLDER/labels/NAME.txt for each image, and FOLDER/data.yaml.

To train on these files, put the images into FOLDER/images, with the same names.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fastmask_jax.apps.predict.formats.annotated_image import LABEL, AnnotatedImage, Write
from fastmask_jax.apps.predict.formats.whole_text_file import whole_text_file
from fastmask_jax.masks.polygons import one_ring

_DATA = f"""train: images
val: images
names:
  0: {LABEL}
"""


@contextmanager
def yolo(folder: Path, tolerance: float) -> Iterator[Write]:
    """Writes a line per proposal: class 0, then x and y of its outline as fractions of the image's sides."""
    with whole_text_file(folder / "data.yaml") as file:
        file.write(_DATA)

    def write(image: AnnotatedImage) -> None:
        height, width = image.proposals.image_size
        with whole_text_file(folder / "labels" / f"{image.name}.txt") as file:
            for parts in image.proposals.polygons(tolerance):
                shares = one_ring(parts) / np.array([width, height])
                file.write(" ".join(["0", *(f"{share:.6g}" for share in shares.ravel())]) + "\n")

    yield write
