"""The table of formats. A new format is a function in a module of its own and a row here."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from fastmask_jax.apps.predict.formats.annotated_image import AnnotatedImage, Write
from fastmask_jax.apps.predict.formats.coco import coco
from fastmask_jax.apps.predict.formats.cvat import cvat
from fastmask_jax.apps.predict.formats.geojson import geojson
from fastmask_jax.apps.predict.formats.geopackage import geopackage
from fastmask_jax.apps.predict.formats.georeference import PACKAGES
from fastmask_jax.apps.predict.formats.label_studio import label_studio
from fastmask_jax.apps.predict.formats.labelme import labelme
from fastmask_jax.apps.predict.formats.png import labels, masks
from fastmask_jax.apps.predict.formats.voc import voc
from fastmask_jax.apps.predict.formats.yolo import yolo


class Format(NamedTuple):
    """A file format.

    Attributes:
      writes: description of the files that it writes below its folder.
      open: (folder, tolerance of polygons in pixels) → a context manager that yields the function that writes an image.
      packages: packages of the extra `large` that it needs.
    """

    writes: str
    open: Callable[[Path, float], AbstractContextManager[Write]]
    packages: tuple[str, ...] = ()


FORMATS = {
    "coco": Format("annotations.json: a COCO dataset of polygons, for CVAT, Label Studio, prepare.py", coco),
    "labelme": Format("NAME.json: polygons for labelme", labelme),
    "label_studio": Format("tasks.json and labels.xml: predictions and interface for Label Studio", label_studio),
    "yolo": Format("labels/NAME.txt and data.yaml: outlines for YOLO segmentation", yolo),
    "cvat": Format("annotations.xml: polygons for CVAT (CVAT for images 1.1)", cvat),
    "voc": Format("SegmentationObject/NAME.png and so on: Pascal VOC masks, at most 254 objects an image", voc),
    "geojson": Format("NAME.geojson: polygons in longitude and latitude, for GIS", geojson, PACKAGES),
    "gpkg": Format("NAME.gpkg: polygons in the image's coordinate system, for GIS", geopackage, (*PACKAGES, "pyogrio")),
    "masks": Format("NAME/RANK.png: each mask alone", masks),
    "labels": Format("NAME.png: one label for every pixel, in a palette", labels),
}


@contextmanager
def open_formats(names: Sequence[str], folder: Path, tolerance: float) -> Iterator[Write]:
    """Opens formats, each in `folder`/NAME, and yields a function that writes an image in all of them.

    Args:
      names: keys of `FORMATS`.
      folder: parent folder of all formats.
      tolerance: maximum distance of polygons from the masks' outlines, in pixels.
    """
    with ExitStack() as stack:
        opened = [stack.enter_context(FORMATS[name].open(folder / name, tolerance)) for name in dict.fromkeys(names)]

        def write(image: AnnotatedImage) -> None:
            for write_one in opened:
                write_one(image)

        yield write
