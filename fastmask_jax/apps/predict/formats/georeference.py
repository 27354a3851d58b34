"""Maps pixels of a raster to coordinates on the earth, and proposals to geometries. Needs rasterio and shapely."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from fastmask_jax.data.large_image import open_raster
from fastmask_jax.masks.polygons import Polygon

WGS84 = "OGC:CRS84"  # longitude, latitude
PACKAGES = ("rasterio", "shapely")


class Georeference(NamedTuple):
    """Maps pixels of an image to coordinates.

    Attributes:
      transform: (a, b, c, d, e, f): the upper left corner of pixel (x, y) is at (a x + b y + c, d x + e y + f).
      crs: rasterio's CRS; None: unknown, or there is no transform and the coordinates are pixels.
    """

    transform: tuple[float, ...]
    crs: Any | None


_PIXELS = Georeference((1.0, 0.0, 0.0, 0.0, 1.0, 0.0), None)


def georeference_of(path: Path, size: tuple[int, int]) -> Georeference:
    """Reads the georeference of an image file, or of its world file.

    Files that GDAL cannot read, or whose size is not the given (H, W), have none.
    """
    dataset = open_raster(path)
    if dataset is None:
        return _PIXELS
    with dataset:
        transform = tuple(dataset.transform)[:6]
        if transform == _PIXELS.transform or (dataset.height, dataset.width) != size:
            return _PIXELS
        return Georeference(transform, dataset.crs)


def geometries(outlines: Sequence[Sequence[Polygon]], place: Georeference, crs: str | None = None) -> list[Any]:
    """Returns valid shapely.MultiPolygon geometries with counterclockwise outlines.

    Args:
      outlines: the parts of each mask, in pixels.
      place: georeference of the image.
      crs: coordinate system of the geometries, if the image's is known; None: the image's.
    """
    import shapely
    from shapely.geometry.polygon import orient

    a, b, c, d, e, f = place.transform

    def ring(points: Float64[np.ndarray, "p 2"]) -> Float64[np.ndarray, "p 2"]:
        x, y = points.T
        x, y = a * x + b * y + c, d * x + e * y + f
        if crs and place.crs:
            from rasterio.warp import transform

            x, y = transform(place.crs, crs, x, y)
        return np.stack([x, y], 1)

    found = []
    for parts in outlines:
        whole = shapely.union_all(
            [shapely.make_valid(shapely.Polygon(ring(p.outer), [ring(h) for h in p.holes])) for p in parts]
        )
        polygons = [one for one in shapely.get_parts(shapely.get_parts(whole)) if one.geom_type == "Polygon"]
        found.append(shapely.MultiPolygon([orient(one) for one in polygons if one.area > 0]))
    return found
