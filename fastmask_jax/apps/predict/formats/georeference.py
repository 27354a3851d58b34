"""Where the pixels of a raster lie on the earth, and proposals as geometries there. Needs rasterio and shapely."""

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
    """From pixels of an image to coordinates.

    Attributes:
      transform: (a, b, c, d, e, f): pixel (x, y) lies at (a x + b y + c, d x + e y + f); its upper left corner does.
      crs: rasterio's CRS; None: unknown, or there is no transform and the coordinates are pixels.
    """

    transform: tuple[float, ...]
    crs: Any | None


_PIXELS = Georeference((1.0, 0.0, 0.0, 0.0, 1.0, 0.0), None)


def georeference_of(path: Path, size: tuple[int, int]) -> Georeference:
    """Reads the georeference of an image file, or of its world file.

    A file that GDAL does not read, or whose pixels are not those of (H, W) that proposals are of, has none.
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
    """Returns valid shapely.MultiPolygon geometries, outlines counterclockwise.

    Args:
      outlines: the parts of each mask, in pixels.
      place: of the image.
      crs: of the geometries, where that of the image is known; None: the image's own.
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
