"""GeoPackage: FOLDER/NAME.gpkg for each image, in the coordinate system of the image. Also needs pyogrio."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fastmask_jax.apps.predict.formats.annotated_image import AnnotatedImage, Write
from fastmask_jax.apps.predict.formats.georeference import geometries, georeference_of

LAYER = "proposals"


@contextmanager
def geopackage(folder: Path, tolerance: float) -> Iterator[Write]:
    """Writes a layer with a MultiPolygon per proposal; the file gets its final name when it is complete."""

    def write(image: AnnotatedImage) -> None:
        import shapely
        from pyogrio.raw import write as write_layer

        found = image.proposals
        place = georeference_of(image.path, found.image_size)
        shapes = geometries(found.polygons(tolerance), place)
        columns = {
            "rank": np.arange(1, len(found) + 1, dtype=np.int32),
            "score": found.scores.astype(np.float64),
            "pixels": found.areas,
            "image": np.full(len(found), image.file_name, object),
        }
        path = folder / f"{image.name}.gpkg"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.stem}.part.gpkg")
        part.unlink(missing_ok=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
            write_layer(
                part,
                np.array([shapely.to_wkb(shape) for shape in shapes], object),
                list(columns.values()),
                list(columns),
                layer=LAYER,
                driver="GPKG",
                geometry_type="MultiPolygon",
                crs=place.crs.to_wkt() if place.crs else None,
            )
        part.replace(path)

    yield write
