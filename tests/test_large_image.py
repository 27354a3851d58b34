"""Images read in windows, compared with the same files decoded at once."""

import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from fastmask_jax.apps.predict.picture_files import attention_sheet
from fastmask_jax.data import large_image
from fastmask_jax.data.image_file import decode_image
from fastmask_jax.data.large_image import LargeImage, open_large, open_raster
from fastmask_jax.inference import proposals
from fastmask_jax.inference.generator import ProposalGenerator
from tests.test_generator import EVALUATION

rasterio = pytest.importorskip("rasterio", reason="large images need rasterio")
HEIGHT, WIDTH = 61, 83


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(large_image, "_CHUNK_BYTES", 7 * WIDTH * 3)
    monkeypatch.setattr(large_image, "DECODED_PIXELS", 100)


def written(path, values, **profile):
    """Writes bands [count, H, W] as a GeoTIFF."""
    count, height, width = values.shape
    defaults = {"driver": "GTiff", "crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 4e5, 0, -0.5, 5e6)}
    with rasterio.open(
        path, "w", dtype=values.dtype, count=count, height=height, width=width, **defaults | profile
    ) as file:
        file.write(values)
    return path


def saved(path, image, **options):
    image.save(path, **options)
    return path


def rgb(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def bands(count=3, dtype=np.uint8, most=256):
    return np.random.default_rng(1).integers(0, most, (count, HEIGHT, WIDTH)).astype(dtype)


FILES = {
    "striped.png": lambda path: saved(path, Image.fromarray(rgb())),
    "gray.png": lambda path: saved(path, Image.fromarray(rgb()[:, :, 0])),
    "alpha.png": lambda path: saved(path, Image.fromarray(np.dstack([rgb(), rgb(2)[:, :, 0]]))),
    "palette.png": lambda path: saved(path, Image.fromarray(rgb()).quantize(20)),
    "two_values.png": lambda path: saved(path, Image.fromarray(rgb()[:, :, 0] > 99)),
    "deep.png": lambda path: saved(path, Image.fromarray(rgb()[:, :, 0].astype(np.uint16) * 13)),
    "photo.jpg": lambda path: saved(path, Image.fromarray(rgb() // 4 * 4), quality=95),
    "photo.webp": lambda path: saved(path, Image.fromarray(rgb()), lossless=True),
    "tiled.tif": lambda path: written(path, bands(), tiled=True, blockxsize=16, blockysize=16),
    "striped.tif": lambda path: written(path, bands(), compress="deflate"),
    "twelve_bits.tif": lambda path: written(path, bands(dtype=np.uint16, most=4000)),
    "light.tif": lambda path: written(path, bands(dtype=np.float32, most=200) / 256),
}


@pytest.mark.parametrize("name", FILES)
def test_windows_are_those_of_the_whole_file(tmp_path, name):
    path = FILES[name](tmp_path / name)
    whole = decode_image(path.read_bytes())
    image = open_large(path)
    assert isinstance(image, LargeImage) and image.shape == whole.shape
    for (top, bottom), (left, right) in itertools.product([(0, 61), (5, 6), (40, 70)], [(0, 83), (80, 83), (17, 51)]):
        np.testing.assert_array_equal(image[top:bottom, left:right], whole[top:bottom, left:right])
    np.testing.assert_array_equal(np.asarray(image), whole)


def test_bands_are_those_called_red_green_and_blue(tmp_path):
    values = bands(5)
    plain = open_large(written(tmp_path / "plain.tif", values))
    np.testing.assert_array_equal(np.asarray(plain), values[:3].transpose(1, 2, 0))
    path = written(tmp_path / "named.tif", values)
    with rasterio.open(path, "r+") as file:
        names = ("undefined", "blue", "green", "undefined", "red")
        file.colorinterp = [rasterio.enums.ColorInterp[name] for name in names]
    np.testing.assert_array_equal(np.asarray(open_large(path)), values[[4, 2, 1]].transpose(1, 2, 0))
    pair = open_large(written(tmp_path / "pair.tif", values[:2]))
    np.testing.assert_array_equal(np.asarray(pair), np.repeat(values[0][:, :, None], 3, 2))


@pytest.mark.parametrize("size", [(20, 28), (61, 83), (7, 9), (1, 1)])
def test_a_reduced_image_has_the_means_of_areas(tmp_path, size):
    pixels = rgb()
    image = open_large(saved(tmp_path / "image.png", Image.fromarray(pixels)))

    def shares(few, side):  # by their definition: what every pixel covers of every larger one
        edges = np.arange(few + 1) * side / few
        return np.array(
            [[max(0.0, min(edges[r + 1], p + 1) - max(edges[r], p)) for p in range(side)] for r in range(few)]
        ) / (side / few)

    want = np.einsum("ry,yxc,sx->rsc", shares(size[0], HEIGHT), pixels.astype(float), shares(size[1], WIDTH))
    assert np.abs(image.reduced(size) - want).max() <= 0.51


def test_small_images_and_other_files_are_not_opened(tmp_path, monkeypatch):
    path = saved(tmp_path / "image.png", Image.fromarray(rgb()))
    (tmp_path / "text.png").write_text("no image")
    assert open_large(tmp_path / "text.png") is open_large(tmp_path / "missing.png") is open_large(tmp_path) is None
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(tmp_path / "turned.png", Image.fromarray(rgb()), exif=exif)
    assert open_large(turned, "apply") is None and open_large(turned) is not None
    monkeypatch.setattr(large_image, "DECODED_PIXELS", HEIGHT * WIDTH)
    assert open_large(path) is None


def test_damage_and_values_without_a_range_are_said_in_a_line(tmp_path):
    path = written(tmp_path / "cut.tif", bands(), tiled=True, blockxsize=16, blockysize=16)
    with open_raster(path) as file:
        assert file.crs.to_epsg() == 32633
    path.write_bytes(path.read_bytes()[:3000])
    if (image := open_large(path)) is not None:
        with pytest.raises(ValueError, match=r"cut\.tif: cannot be read from row 0 on"):
            np.asarray(image)
    below = written(tmp_path / "heights.tif", bands(1, np.int16, 50) - np.int16(20))
    with pytest.raises(ValueError, match=r"heights\.tif: pixels are int16 from -20 to 29"):
        open_large(below)


def test_a_file_read_in_windows_proposes_what_its_pixels_do(tmp_path, tiny_network, monkeypatch):
    """Except for the whole image, which is read as a reduced copy."""
    coarse = np.random.default_rng(0).uniform(0, 255, (6, 8, 3)).astype(np.float32)
    pixels = np.clip(cv2.resize(coarse, (192, 144), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)
    path = saved(tmp_path / "image.png", Image.fromarray(pixels))
    generator = ProposalGenerator(*tiny_network, ConfigDict({"evaluation": EVALUATION | {"buckets": ((96, 96),)}}))
    options = {"tile": 100, "tile_overlap": 20, "count": 400, "candidates": 100}
    in_windows, whole = generator.propose(path, **options), generator.propose(pixels, **options)
    assert isinstance(in_windows.image, LargeImage)
    parts = [{(m["counts"], s) for m, s in zip(f.rles, f.scores, strict=True)} for f in (in_windows, whole)]
    assert len(parts[0] & parts[1]) > 0.5 * len(parts[1])

    shown = in_windows[:3]
    monkeypatch.setattr(proposals, "DRAWN", 96)
    assert shown.overlay().size == (96, 72)
    same = replace(shown, image=pixels)
    assert [cut.tobytes() for cut in shown.cutouts()] == [cut.tobytes() for cut in same.cutouts()]
    np.testing.assert_array_equal(attention_sheet(shown), attention_sheet(same))
    assert attention_sheet(shown[:0]).shape[1] > 96

    lines = []
    broken = written(tmp_path / "below.tif", -bands(1, np.int16))
    first, none = generator.propose_iter([path, broken], on_problem=lines.append, **options)
    assert len(first) == len(in_windows) and none is None and "below.tif: pixels are int16" in lines[0]


def claimed(path, height, width, **profile):
    """Writes a TIFF of a few hundred bytes that has no data for the pixels that it claims."""
    options = {"driver": "GTiff", "dtype": "uint8", "count": 3, "height": height, "width": width, "SPARSE_OK": True}
    options["transform"] = rasterio.Affine(2, 0, 0, 0, -2, 0)
    with rasterio.open(path, "w", **options | profile):
        pass
    return path


@pytest.mark.parametrize(
    ("size", "profile", "padding", "says"),
    [
        ((60_000, 60_000), {"tiled": True, "blockxsize": 4096, "blockysize": 4096}, 0, "more than 10000 for each byte"),
        ((2**20, 2**13), {"blockysize": 4}, 10**6, r"at most 4294967295 pixels, and 1000000 a side"),
    ],
)
def test_a_size_that_a_file_cannot_have_is_refused_unread(tmp_path, size, profile, padding, says):
    path = claimed(tmp_path / "claim.tif", *size, **profile)
    with path.open("ab") as file:
        file.write(bytes(padding))
    with pytest.raises(ValueError, match=rf"claim.tif: .*{says}") as caught:
        open_large(path)
    assert "\n" not in str(caught.value)


def test_rows_of_tiles_that_take_too_much_memory_are_refused(tmp_path, monkeypatch):
    image = open_large(written(tmp_path / "a.tif", bands()))
    image.check_rows(HEIGHT)
    monkeypatch.setattr(large_image, "_MOST_ROW_BYTES", 3 * HEIGHT * WIDTH - 1)
    with pytest.raises(ValueError, match=r"a.tif: a row of tiles of 61x83 pixels takes 0 GiB: choose a smaller tile"):
        image.check_rows(HEIGHT)


def test_a_file_that_names_others_is_no_image(tmp_path):
    inner = written(tmp_path / "a.tif", bands())
    outer = tmp_path / "photo.jpg"
    pytest.importorskip("rasterio.shutil").copy(inner, outer, driver="VRT")
    assert open_raster(inner) is not None and open_raster(outer) is None
