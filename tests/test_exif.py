"""EXIF orientations compared with Pillow, in the library and in prepared data."""

import contextlib
import io
import json
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from fastmask_jax.data.coco.image_check import check
from fastmask_jax.data.coco.instances import read_instances
from fastmask_jax.data.coco.problem_report import Problem
from fastmask_jax.data.exif import orientation_of, upright
from fastmask_jax.data.image_file import decode_image
from fastmask_jax.data.prepare import prepare_coco
from fastmask_jax.data.records import RecordSource
from fastmask_jax.errors import InvalidInput
from fastmask_jax.inference.image_input import read_image

RGB = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)


def file_of(orientation: int, kind: str = "png", pixels: np.ndarray = RGB) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    options = {"webp": {"lossless": True}, "bigtiff": {"big_tiff": True}}.get(kind, {})
    Image.fromarray(pixels).save(file, kind.removeprefix("big"), exif=exif, **options)
    return file.getvalue()


def shown(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "webp", "tiff", "bigtiff"])
def test_pixels_as_stored_or_as_shown(tmp_path, orientation, kind):
    data = file_of(orientation, kind)
    np.testing.assert_array_equal(decode_image(data), RGB)
    np.testing.assert_array_equal(decode_image(data, "apply"), shown(data))
    np.testing.assert_array_equal(upright(RGB, orientation), shown(data))
    path = tmp_path / "photo"
    path.write_bytes(data)
    assert orientation_of(data) == orientation_of(path) == orientation
    for image in (path, Image.open(path)):
        np.testing.assert_array_equal(read_image(image, "apply"), shown(data))
        assert "tiff" in kind or (read_image(image) == RGB).all()  # Pillow turns an opened TIFF file by itself


def test_jpegs_of_phones():
    data = file_of(6, "jpeg", np.repeat(np.repeat(RGB, 8, 0), 8, 1))
    difference = decode_image(data, "apply").astype(int) - shown(data)
    assert decode_image(data, "apply").shape == (96, 72, 3) and np.abs(difference).max() <= 4


@pytest.mark.parametrize("stated", [0, 9, 65535])
def test_orientations_that_there_are_not_are_upright(stated):
    assert orientation_of(file_of(stated)) == 1
    assert orientation_of(b"no image") == orientation_of(b"") == 1


def test_other_choices_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"exif='turn': expected 'ignore' .* or 'apply'"):
        decode_image.__wrapped__(file_of(1), "turn")


@pytest.fixture
def labeled(tmp_path):
    """Photographs of every orientation, labeled as viewers show them: a mask over their upper left quarter."""
    images, annotations = [], []
    for orientation in range(1, 9):
        data = file_of(orientation, pixels=np.repeat(np.repeat(RGB, 8, 0), 8, 1))
        (tmp_path / f"{orientation}.png").write_bytes(data)
        height, width = shown(data).shape[:2]
        images.append({"id": orientation, "file_name": f"{orientation}.png", "height": height, "width": width})
        box = [[0, 0, width / 2, 0, width / 2, height / 2, 0, height / 2]]
        annotations.append({"id": orientation, "image_id": orientation, "segmentation": box})
    (tmp_path / "labels.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return tmp_path


def test_turned_photographs_are_counted_and_those_that_do_not_fit_say_why(labeled):
    split = read_instances(labeled / "labels.json", labeled)
    checked = check(split, 0)
    assert [one.image.image_id for one in checked] == [1, 2, 3, 4]
    assert split.report.examples[Problem.IMAGE_TURNED] == ["2.png (2)", "3.png (3)", "4.png (4)"]
    assert split.report.examples[Problem.IMAGE_SIZE][1] == (
        "6.png (file 72x96, entry 96x72, EXIF orientation 6: use exif=apply)"
    )


def test_records_of_photographs_labeled_upright(labeled, tmp_path_factory):
    out = tmp_path_factory.mktemp("records")
    said = prepare_coco(labeled / "labels.json", labeled, out, "train", workers=0, exif="apply")
    assert "8 images" in said and "turned upright by their EXIF orientation: 7 images" in said
    assert "skipped" not in said
    records = RecordSource(out / "train")
    for record in (records[number] for number in range(8)):
        pixels = decode_image(record.image_bytes)
        seen = shown((labeled / record.file_name).read_bytes())
        assert pixels.shape == seen.shape == (record.height, record.width, 3)
        assert np.abs(pixels.astype(int) - seen).mean() < (6 if record.image_id > 1 else 1)  # encoded again


def test_a_folder_labeled_as_stored_says_so(labeled, tmp_path_factory):
    content = json.loads((labeled / "labels.json").read_text())
    for image in content["images"]:
        image["height"], image["width"] = 72, 96
    (labeled / "labels.json").write_text(json.dumps(content))
    split = read_instances(labeled / "labels.json", labeled)
    assert len(check(split, 0)) == 8 and split.report.counts == {Problem.IMAGE_TURNED: 7}
    split = read_instances(labeled / "labels.json", labeled)
    assert len(check(split, 0, "apply")) == 4
    assert "use exif=ignore" in split.report.summary()


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about such files
def test_a_tiff_with_a_directory_that_is_cut_off_is_decoded_or_refused():
    data = bytearray(file_of(6, "tiff"))
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<H", data, start, entries + 30)  # more than the file holds
    assert orientation_of(bytes(data)) == 6
    with contextlib.suppress(InvalidInput):
        assert decode_image(bytes(data)).shape == RGB.shape
