"""TIFF files of every arrangement of values, decoded at once and in windows; rasterio writes them."""

import struct
import warnings

import numpy as np
import pytest

from fastmask_jax.data import large_image
from fastmask_jax.data.image_file import decode_image
from fastmask_jax.data.large_image import open_large

rasterio = pytest.importorskip("rasterio", reason="reads and writes these files")
NotGeoreferencedWarning = pytest.importorskip("rasterio.errors").NotGeoreferencedWarning

RGB = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)
RGB[0, 0] = 255


def geotiff(values: np.ndarray, **profile) -> bytes:
    values = np.atleast_3d(values)
    file = rasterio.MemoryFile()
    size = {"height": values.shape[0], "width": values.shape[1], "count": values.shape[2], "dtype": values.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with file.open(driver="GTiff", **size, **profile) as dataset:
            dataset.write(np.moveaxis(values, 2, 0))
    return file.read()


@pytest.mark.parametrize("photometric", ["rgb", "miniswhite", "minisblack"])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32, np.float32])
def test_layouts(tmp_path, monkeypatch, photometric, interleave, kind):
    eight = RGB if photometric == "rgb" else RGB[:, :, 0]
    if photometric == "miniswhite" and kind == np.float32:
        pytest.skip("no program writes these")
    stored = eight if photometric != "miniswhite" else 255 - eight
    values = stored.astype(kind) / 255 if kind == np.float32 else stored.astype(kind) * (1 if kind == np.uint8 else 16)
    data = geotiff(values.astype(kind), photometric=photometric, interleave=interleave)
    difference = decode_image(data).astype(int) - np.broadcast_to(np.atleast_3d(eight), RGB.shape)
    assert np.abs(difference).max() <= (photometric == "miniswhite")  # 4095 is white, and 4080 the largest value
    monkeypatch.setattr(large_image, "DECODED_PIXELS", 0)
    (tmp_path / "a.tif").write_bytes(data)
    np.testing.assert_array_equal(np.asarray(open_large(tmp_path / "a.tif")), decode_image(data))


@pytest.mark.parametrize("compress", ["none", "lzw", "deflate", "zstd", "lzma"])
@pytest.mark.parametrize("photometric", ["miniswhite", "minisblack"])
@pytest.mark.parametrize(("bits", "endianness"), [(8, "big"), (12, "little"), (12, "big"), (16, "little"), (16, "big")])
def test_compressions(compress, photometric, bits, endianness):
    eight = RGB[:, :, 0]
    stored = (255 - eight if photometric == "miniswhite" else eight).astype(np.uint8 if bits == 8 else np.uint16)
    data = geotiff(stored << (bits - 8), photometric=photometric, compress=compress, nbits=bits, endianness=endianness)
    np.testing.assert_array_equal(decode_image(data), np.dstack([eight] * 3))


@pytest.mark.parametrize("tag", [256, 257, 258, 259, 262, 284])
@pytest.mark.parametrize("kind", [2, 5, 7, 12])  # text, fraction, any bytes, float64
def test_tags_of_other_types_are_refused(tag, kind):
    data = bytearray(geotiff(RGB[:, :, 0], photometric="minisblack"))
    entry = data.index(struct.pack("<HHI", tag, 3, 1))
    struct.pack_into("<H", data, entry + 2, kind)
    with pytest.raises(ValueError, match="of no supported format"):
        decode_image(bytes(data))


@pytest.mark.parametrize("count", [2, 4, 5])
def test_more_bands_than_colors(count):
    values = np.dstack([RGB / 255, RGB / 255])[:, :, :count].astype(np.float32)
    expected = RGB if count > 2 else np.dstack([RGB[:, :, 0]] * 3)
    np.testing.assert_array_equal(decode_image(geotiff(values, photometric="minisblack")), expected)


def test_what_cannot_be_decoded_is_named(monkeypatch):
    data = bytearray(geotiff(RGB, photometric="rgb"))
    entry = data.index(struct.pack("<HHI", 259, 3, 1))  # the tag of the compression
    struct.pack_into("<H", data, entry + 8, 34712)
    with pytest.raises(ValueError, match=r"of no supported format \(compression 34712\)$"):
        decode_image(bytes(data))
    with pytest.raises(ValueError, match="CMYK colors cannot be read"):
        decode_image(geotiff(np.zeros((4, 5, 4), np.uint16), photometric="cmyk"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    planes = geotiff(RGB.astype(np.uint16), photometric="rgb", interleave="band")
    with pytest.raises(ValueError, match=r"separate planes of more than 8 bits needs rasterio: pip install"):
        decode_image(planes)
