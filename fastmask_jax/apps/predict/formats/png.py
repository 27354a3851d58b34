"""PNG files: FOLDER/NAME/RANK.png for each mask, or FOLDER/NAME.png with one label for every pixel."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from fastmask_jax.apps.predict.formats.annotated_image import AnnotatedImage, Write
from fastmask_jax.masks.label_map import label_picture


@contextmanager
def masks(folder: Path, tolerance: float) -> Iterator[Write]:
    """Writes each mask to a file of its own, 255 on black, named by its rank from 001. Ignores the tolerance."""

    def write(image: AnnotatedImage) -> None:
        place = folder / image.name
        place.mkdir(parents=True, exist_ok=True)
        for k in range(len(image.proposals)):
            Image.fromarray(image.proposals.mask(k).astype(np.uint8) * 255).save(place / f"{k + 1:03}.png")

    yield write


@contextmanager
def labels(folder: Path, tolerance: float) -> Iterator[Write]:
    """Writes label maps: pixel value k + 1 for proposal k, 0 for none. Ignores the tolerance."""

    def write(image: AnnotatedImage) -> None:
        path = folder / f"{image.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        label_picture(image.proposals.label_map()).save(path)

    yield write
