"""Pascal VOC masks, the layout that CVAT calls "Segmentation mask 1.1".

FOLDER/SegmentationObject/NAME.png    the number of the object at each pixel, from 1 by rank; 0: none
FOLDER/SegmentationClass/NAME.png     1 where an object is
FOLDER/ImageSets/Segmentation/default.txt, FOLDER/labelmap.txt
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from fastmask_jax.apps.predict.formats.annotated_image import LABEL, AnnotatedImage, Write
from fastmask_jax.apps.predict.formats.whole_text_file import whole_text_file

_log = logging.getLogger(__name__)
OBJECTS = 254  # 255 marks pixels without a known object


@contextmanager
def voc(folder: Path, tolerance: float) -> Iterator[Write]:
    """Writes palette images in VOC's colors; a pixel belongs to the best proposal that covers it.

    They hold the best 254 proposals of an image; a final warning counts the omitted ones. Ignores the tolerance.
    """
    palette = voc_colors()
    images = left_out = 0
    with whole_text_file(folder / "labelmap.txt") as file:
        color = ",".join(str(value) for value in palette[1])
        file.write(f"# label:color_rgb:parts:actions\nbackground:0,0,0::\n{LABEL}:{color}::\n")
    with whole_text_file(folder / "ImageSets" / "Segmentation" / "default.txt") as names:

        def write(image: AnnotatedImage) -> None:
            nonlocal images, left_out
            more = max(len(image.proposals) - OBJECTS, 0)
            images, left_out = images + (more > 0), left_out + more
            labels = image.proposals[:OBJECTS].label_map()
            _save(labels, palette, folder / "SegmentationObject" / f"{image.name}.png")
            _save(np.minimum(labels, 1), palette, folder / "SegmentationClass" / f"{image.name}.png")
            names.write(f"{image.name}\n")

        yield write
    if left_out:
        _log.warning(
            "voc: %s proposals of %s images are not in its files, which hold the best %s of an image",
            left_out,
            images,
            OBJECTS,
        )


def voc_colors() -> UInt8[np.ndarray, "256 3"]:
    """Computes VOC's colors: each three bits of the label, lowest first, fill the bits of R, G and B, highest first."""
    labels, colors = np.arange(256), np.zeros((256, 3), np.uint8)
    for step in range(8):
        for channel in range(3):
            bit = labels >> (3 * step + channel) & 1
            colors[:, channel] |= (bit << (7 - step)).astype(np.uint8)
    return colors


def _save(labels: Integer[np.ndarray, "H W"], palette: UInt8[np.ndarray, "256 3"], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette(palette.tobytes())
    picture.save(path)
