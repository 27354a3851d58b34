"""GeoJSON (RFC 7946): FOLDER/NAME.geojson for each image, in longitude and latitude if it is georeferenced."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fastmask_jax.apps.predict.formats.annotated_image import AnnotatedImage, Write
from fastmask_jax.apps.predict.formats.georeference import WGS84, geometries, georeference_of
from fastmask_jax.apps.predict.formats.whole_text_file import whole_text_file

_DEGREES, _OTHERS = 8, 3  # decimals: about a millimeter


@contextmanager
def geojson(folder: Path, tolerance: float) -> Iterator[Write]:
    """Writes a MultiPolygon per proposal; if there is no coordinate system, in the image's unit, such as pixels."""

    def write(image: AnnotatedImage) -> None:
        import shapely

        found = image.proposals
        place = georeference_of(image.path, found.image_size)
        decimals = _DEGREES if place.crs else _OTHERS
        with whole_text_file(folder / f"{image.name}.geojson") as file:
            file.write('{"type": "FeatureCollection", "features": [')
            for k, geometry in enumerate(geometries(found.polygons(tolerance), place, WGS84)):
                rounded = shapely.transform(geometry, lambda points: np.round(points, decimals))
                feature = {
                    "type": "Feature",
                    "id": k + 1,
                    "geometry": shapely.geometry.mapping(rounded),
                    "properties": {
                        "rank": k + 1,
                        "score": float(found.scores[k].astype(str)),
                        "pixels": int(found.areas[k]),
                        "image": image.file_name,
                    },
                }
                file.write((",\n" if k else "\n") + json.dumps(feature))
            file.write("\n]}\n")

    yield write
