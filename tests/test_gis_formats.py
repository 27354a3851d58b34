"""GeoJSON and GeoPackage, read back by pyogrio and shapely, and rasterized again by rasterio."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from fastmask_jax.apps.command_line.predict import main
from fastmask_jax.apps.predict.formats.annotated_image import AnnotatedImage
from fastmask_jax.apps.predict.formats.table import open_formats
from tests.test_formats import SIZES, bitmaps_of, proposals_of

rasterio = pytest.importorskip("rasterio", reason="files for GIS need rasterio")
features = pytest.importorskip("rasterio.features")
warp = pytest.importorskip("rasterio.warp")
pyogrio = pytest.importorskip("pyogrio", reason="files for GIS need pyogrio")
shapely = pytest.importorskip("shapely", reason="files for GIS need shapely")

UTM = "EPSG:32633"
TURNED = rasterio.Affine.translation(4e5, 5e6) @ rasterio.Affine.rotation(20) @ rasterio.Affine.scale(0.5, -0.5)
PLACES = {"north up": rasterio.Affine(0.5, 0, 4e5, 0, -0.5, 5e6), "turned": TURNED}


def raster(path, name, transform, crs=UTM):
    """A GeoTIFF of the size of the image of that name."""
    height, width = SIZES[name]
    profile = {"driver": "GTiff", "dtype": "uint8", "count": 1, "height": height, "width": width}
    with rasterio.open(path, "w", crs=crs, transform=transform, **profile) as file:
        file.write(np.zeros((1, height, width), np.uint8))


def written(folder, path, name, tolerance=0.0):
    with open_formats(["geojson", "gpkg"], folder / "out", tolerance) as write:
        write(AnnotatedImage(3, path, name, proposals_of(name)))
    assert not list(folder.rglob("*.part*"))
    return folder / "out/geojson" / f"{name}.geojson", folder / "out/gpkg" / f"{name}.gpkg"


def read(path):
    """Geometries and columns of the only layer of a file."""
    info, _, geometries, columns = pyogrio.raw.read(path)
    return info, shapely.from_wkb(geometries), dict(zip(info["fields"].tolist(), columns, strict=True))


def drawn(geometry, name, transform):
    return features.geometry_mask([geometry], SIZES[name], transform, invert=True)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", SIZES)
def test_masks_come_back_from_both(tmp_path, name, place):
    transform = PLACES[place]
    path = tmp_path / "raster.tif"
    raster(path, name, transform)
    geojson, geopackage = written(tmp_path, path, name)
    bitmaps = bitmaps_of(name)

    info, shapes, columns = read(geopackage)
    assert info["crs"] == UTM and info["geometry_type"] == "MultiPolygon"
    assert pyogrio.list_layers(geopackage).tolist() == [["proposals", "MultiPolygon"]]
    assert columns["score"].tolist() == pytest.approx([0.9, 0.75, 0.1][: len(bitmaps)])
    assert columns["rank"].tolist() == list(range(1, len(bitmaps) + 1))
    assert columns["pixels"].tolist() == [bitmap.sum() for bitmap in bitmaps]
    for shape, bitmap in zip(shapes, bitmaps, strict=True):
        assert shape.is_valid and shape.area == pytest.approx(bitmap.sum() / 4)
        np.testing.assert_array_equal(drawn(shape, name, transform), bitmap)

    content = json.loads(geojson.read_text())
    assert content["type"] == "FeatureCollection" and "crs" not in content
    assert len(content["features"]) == len(bitmaps)
    for feature, bitmap in zip(content["features"], bitmaps, strict=True):
        assert feature["properties"]["image"].endswith(".tif")
        shape = shapely.geometry.shape(feature["geometry"])
        assert 13 < shape.centroid.x < 14 and 45 < shape.centroid.y < 46  # degrees: east, north
        for polygon in shape.geoms:
            assert polygon.exterior.is_ccw and not any(hole.is_ccw for hole in polygon.interiors)
        back = warp.transform_geom("EPSG:4326", UTM, feature["geometry"])
        np.testing.assert_array_equal(drawn(back, name, transform), bitmap)
    if len(bitmaps):
        assert pyogrio.read_info(geojson)["crs"] == "EPSG:4326"


def test_coordinates_are_pixels_where_there_is_no_georeference(tmp_path):
    name = "a"
    path = tmp_path / "a.png"
    Image.fromarray(proposals_of(name).image).save(path)
    geojson, geopackage = written(tmp_path, path, name)
    info, shapes, _ = read(geopackage)
    assert info["crs"] is None or "Undefined" in info["crs"]
    features = json.loads(geojson.read_text())["features"]
    for shape, feature, bitmap in zip(shapes, features, bitmaps_of(name), strict=True):
        for one in (shape, shapely.geometry.shape(feature["geometry"])):
            np.testing.assert_array_equal(drawn(one, name, rasterio.Affine.identity()), bitmap)


def test_a_world_file_gives_coordinates_of_an_unknown_system(tmp_path):
    name = "a"
    path = tmp_path / "a.png"
    Image.fromarray(proposals_of(name).image).save(path)
    (tmp_path / "a.pgw").write_text("2\n0\n0\n-2\n101\n199\n")  # of the center of the first pixel
    geojson, _ = written(tmp_path, path, name)
    first = shapely.geometry.shape(json.loads(geojson.read_text())["features"][1]["geometry"])
    assert first.bounds == (110, 140, 158, 194)  # pixels 5 to 29, 3 to 30


def test_simplified_outlines_are_valid(tmp_path):
    path = tmp_path / "raster.tif"
    raster(path, "a", PLACES["turned"])
    _, geopackage = written(tmp_path, path, "a", tolerance=3.0)
    _, shapes, _ = read(geopackage)
    assert shapely.is_valid(shapes).all()
    for shape, bitmap in zip(shapes, bitmaps_of("a"), strict=True):
        assert shape.area == pytest.approx(bitmap.sum() / 4, rel=0.3)


def test_missing_packages_are_named_before_anything_is_read(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyogrio" else found(name))
    with pytest.raises(ValueError, match=r"--format gpkg needs pyogrio: pip install 'fastmask_jax\[large\]'"):
        main([str(tmp_path / "missing.tif"), "--format", "gpkg"])
