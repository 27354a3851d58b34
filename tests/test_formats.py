"""Annotation formats, read back by pycocotools, and by the tools' own readers if they are installed."""

import contextlib
import importlib.util
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from fastmask_jax.apps.predict.formats.annotated_image import AnnotatedImage
from fastmask_jax.apps.predict.formats.table import FORMATS, open_formats
from fastmask_jax.apps.predict.formats.voc import voc_colors
from fastmask_jax.data.coco.image_check import check
from fastmask_jax.data.coco.instances import read_instances
from fastmask_jax.inference.proposals import Proposals
from tests.test_label_map import encoded

INSTALLED = [name for name, one in FORMATS.items() if all(importlib.util.find_spec(each) for each in one.packages)]
SIZES = {"a": (40, 60), "below/b & c": (33, 31), "empty": (20, 20)}


def bitmaps_of(name: str) -> np.ndarray:
    """Returns a disc, a rectangle with two holes, and an object of two parts; nothing for the image "empty"."""
    H, W = SIZES[name]
    bitmaps = np.zeros((0 if name == "empty" else 3, H, W), bool)
    if len(bitmaps):
        y, x = np.mgrid[:H, :W]
        bitmaps[0] = np.hypot(y - 12, x - 12) < 9
        bitmaps[1, 3:30, 5:29] = True
        bitmaps[1, 6:9, 8:12] = bitmaps[1, 20:26, 15:17] = False
        bitmaps[2, 2:6, 20:30] = bitmaps[2, 25:32, 1:7] = True
    return bitmaps


def proposals_of(name: str) -> Proposals:
    bitmaps = bitmaps_of(name)
    count, (H, W) = len(bitmaps), SIZES[name]
    rles = encoded(bitmaps)
    return Proposals(
        scores=np.array([0.9, 0.75, 0.1], np.float32)[:count],
        boxes=np.array([coco_mask.toBbox(rle) for rle in rles], np.float32).reshape(-1, 4),
        rles=rles,
        windows=np.zeros((count, 3), np.int32),
        long_edges=np.full(count, 96, np.int32),
        mirrored=np.zeros(count, bool),
        window_boxes=np.zeros((count, 4), np.int64),
        attention=np.zeros((count, 10, 10), np.float32),
        image=np.full((H, W, 3), 99, np.uint8),
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A folder of images, and in its subfolder `out` the files of all formats, with tolerance 0."""
    folder = tmp_path_factory.mktemp("formats")
    with open_formats([*INSTALLED, "coco"], folder / "out", 0.0) as write:
        for number, name in enumerate(SIZES, 7):
            path = folder / "images" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            proposals = proposals_of(name)
            Image.fromarray(proposals.image).save(path)
            write(AnnotatedImage(number, path, name, proposals))
    assert not list(folder.rglob("*.part"))
    assert sorted(path.name for path in (folder / "out").iterdir()) == sorted(INSTALLED)
    return folder


def drawn(rings, name) -> np.ndarray:
    """Rasterizes the union of rings with pycocotools."""
    flat = [np.asarray(ring, np.float64).ravel().tolist() for ring in rings]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, *SIZES[name]))).astype(bool)


def test_coco_is_read_by_pycocotools_and_as_training_data(written):
    path = written / "out/coco/annotations.json"
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO(str(path))
    assert [image["file_name"] for image in dataset.loadImgs([7, 8, 9])] == [f"{name}.png" for name in SIZES]
    split = read_instances(path, written / "images")
    checked = check(split, workers=0)
    assert not split.report
    for image, name in zip(checked, SIZES, strict=True):
        annotations = dataset.loadAnns(dataset.getAnnIds(image.image.image_id))
        assert [entry["score"] for entry in annotations] == [0.9, 0.75, 0.1][: len(annotations)]
        for bitmap, entry, ours in zip(bitmaps_of(name), annotations, image.objects, strict=True):
            np.testing.assert_array_equal(dataset.annToMask(entry), bitmap)
            np.testing.assert_array_equal(coco_mask.decode({"size": SIZES[name], "counts": ours.counts}), bitmap)
            assert entry["area"] == bitmap.sum() and entry["iscrowd"] == 0


def test_labelme_files_hold_the_parts_in_groups(written):
    for name in SIZES:
        path = written / f"out/labelme/{name}.json"
        content = json.loads(path.read_text())
        assert (path.parent / content["imagePath"]).resolve() == (written / "images" / f"{name}.png").resolve()
        assert (content["imageHeight"], content["imageWidth"]) == SIZES[name]
        for rank, bitmap in enumerate(bitmaps_of(name), 1):
            rings = [shape["points"] for shape in content["shapes"] if shape["group_id"] == rank]
            np.testing.assert_array_equal(drawn(rings, name), bitmap)


def test_labelme_reads_its_files(written):
    reader = pytest.importorskip("labelme._label_file", reason="labelme is not installed")
    for name in SIZES:
        annotation = reader.read_label_file(filename=str(written / f"out/labelme/{name}.json"))
        assert len(annotation.shapes) == len(bitmaps_of(name)) + (name != "empty")
        assert {shape["label"] for shape in annotation.shapes} <= {"object"}


def test_labelme_draws_the_masks(written):
    reader = pytest.importorskip("labelme._label_file", reason="labelme is not installed")
    draw = pytest.importorskip("labelme._utils._mask", reason="another version of labelme").shape_to_mask
    for name in ("a", "below/b & c"):
        shapes = reader.read_label_file(filename=str(written / f"out/labelme/{name}.json")).shapes
        for rank, bitmap in enumerate(bitmaps_of(name), 1):
            rings = [shape["points"] for shape in shapes if shape["group_id"] == rank]
            mask = np.any([draw(SIZES[name], [list(point) for point in ring]) for ring in rings], axis=0)
            around = cv2.dilate(bitmap.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            assert not (bitmap & ~mask).any()  # it draws the outline, too, as OpenCV does
            assert rank == 2 or not (mask & ~around).any()  # in holes, it also draws the cuts to them


def test_label_studio_has_percents_of_the_sides(written):
    tasks = json.loads((written / "out/label_studio/tasks.json").read_text())
    assert tasks[1]["data"]["image"] == "/data/local-files/?d=below/b%20%26%20c.png"
    for task, name in zip(tasks, SIZES, strict=True):
        results = task["predictions"][0]["result"]
        for bitmap, result in zip(bitmaps_of(name), results, strict=True):
            assert (result["original_height"], result["original_width"]) == SIZES[name]
            ring = np.array(result["value"]["points"]) / 100 * SIZES[name][::-1]
            np.testing.assert_array_equal(drawn([ring.round(3)], name), bitmap)


def test_label_studio_takes_its_predictions(written):
    sdk = pytest.importorskip("label_studio_sdk.label_interface", reason="label-studio-sdk is not installed")
    interface = sdk.LabelInterface((written / "out/label_studio/labels.xml").read_text())
    for task in json.loads((written / "out/label_studio/tasks.json").read_text()):
        assert interface.validate_task({"data": task["data"]})
        assert all(interface.validate_prediction(prediction) for prediction in task["predictions"])


def test_label_studio_exports_its_annotations_as_training_data(written, tmp_path):
    """Predictions that were accepted, by Label Studio's own converter to COCO."""
    converter = pytest.importorskip("label_studio_sdk.converter", reason="label-studio-sdk is not installed")
    tasks = json.loads((written / "out/label_studio/tasks.json").read_text())
    accepted = [
        {"id": number, "data": task["data"], "annotations": [{"id": number, **task["predictions"][0]}]}
        for number, task in enumerate(tasks, 1)
    ]
    (tmp_path / "export.json").write_text(json.dumps(accepted))
    interface = (written / "out/label_studio/labels.xml").read_text()
    tool = converter.Converter(interface, str(tmp_path), download_resources=False)
    tool.convert_to_coco(str(tmp_path / "export.json"), str(tmp_path / "coco"), is_dir=False)
    split = read_instances(tmp_path / "coco/result.json", written / "images")
    checked = check(split, workers=0)
    assert [one.image.file_name for one in checked] == [f"{name}.png" for name in SIZES] and not split.report
    for one, name in zip(checked, SIZES, strict=True):
        for found, bitmap in zip(one.objects, bitmaps_of(name), strict=True):
            mask = coco_mask.decode({"size": SIZES[name], "counts": found.counts}).astype(bool)
            assert (mask ^ bitmap).sum() <= 1  # percents are rounded to four decimals


def test_yolo_lines_are_shares_of_the_sides(written):
    for name in SIZES:
        lines = (written / f"out/yolo/labels/{name}.txt").read_text().splitlines()
        for bitmap, line in zip(bitmaps_of(name), lines, strict=True):
            number, *shares = line.split()
            ring = np.array(shares, float).reshape(-1, 2) * SIZES[name][::-1]
            assert number == "0"
            np.testing.assert_array_equal(drawn([ring.round(2)], name), bitmap)


def test_supervision_reads_yolo_and_coco(written):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    yolo, coco = written / "out/yolo", written / "out/coco/annotations.json"
    places = {"annotations_directory_path": str(yolo / "labels"), "data_yaml_path": str(yolo / "data.yaml")}
    flat = supervision.DetectionDataset.from_yolo(str(written / "images"), **places, force_masks=True)
    read = {Path(path).stem: found for path, _, found in flat}
    for bitmap, mask in zip(bitmaps_of("a"), read["a"].mask, strict=True):
        assert not (bitmap & ~mask).any()  # cv2.fillPoly draws the outline, too: a pixel more around
    around = cv2.dilate(bitmaps_of("a")[0].astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert not (read["a"].mask[0] & ~around).any()
    full = supervision.DetectionDataset.from_coco(str(written / "images"), str(coco), force_masks=True)
    assert full.classes == ["object"]
    counts = {path.removesuffix(".png").split("images/")[1]: len(found) for path, _, found in full}
    assert counts == {name: len(bitmaps_of(name)) for name in SIZES}


def test_cvat_xml_has_a_polygon_for_each_part(written):
    root = ElementTree.parse(written / "out/cvat/annotations.xml").getroot()
    images = root.findall("image")
    assert [image.get("name") for image in images] == [f"{name}.png" for name in SIZES]
    for image, name in zip(images, SIZES, strict=True):
        assert (int(image.get("height")), int(image.get("width"))) == SIZES[name]
        objects: dict[str, list] = {}
        for polygon in image.findall("polygon"):
            points = [[float(v) for v in point.split(",")] for point in polygon.get("points").split(";")]
            objects.setdefault(polygon.findtext("attribute"), []).append(points)
        assert list(objects) == [f"{score:.4f}" for score in proposals_of(name).scores]
        for bitmap, rings in zip(bitmaps_of(name), objects.values(), strict=True):
            np.testing.assert_array_equal(drawn(rings, name), bitmap)


def test_datumaro_reads_coco(written, tmp_path):
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    (tmp_path / "annotations").mkdir()
    content = (written / "out/coco/annotations.json").read_bytes()
    (tmp_path / "annotations/instances_default.json").write_bytes(content)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/default").symlink_to(written / "images")
    items = {item.id: item.annotations for item in datumaro.Dataset.import_from(str(tmp_path), "coco_instances")}
    assert set(items) == set(SIZES)
    for name, notes in items.items():
        groups: dict[int, list] = {}
        for note in notes:
            if note.type.name == "polygon":
                groups.setdefault(note.group, []).append(note.points)
        for (_, rings), bitmap in zip(sorted(groups.items()), bitmaps_of(name), strict=True):
            np.testing.assert_array_equal(drawn(rings, name), bitmap)


def test_datumaro_reads_cvat_and_voc(written, tmp_path):
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    (tmp_path / "annotations.xml").write_bytes((written / "out/cvat/annotations.xml").read_bytes())
    (tmp_path / "images").symlink_to(written / "images")
    items = {item.id: item.annotations for item in datumaro.Dataset.import_from(str(tmp_path), "cvat")}
    assert [polygon.z_order for polygon in items["a"]] == [2, 1, 0, 0]
    assert [polygon.group for polygon in items["a"]] == [0, 0, 3, 3]
    items = {
        item.id: item.annotations
        for item in datumaro.Dataset.import_from(str(written / "out/voc"), "voc_instance_segmentation")
    }
    assert set(items) == set(SIZES)
    assert len(items["empty"]) == 0
    masks = [note.image for note in items["a"] if note.type.name == "mask"]
    assert [mask.sum() for mask in masks] == [(proposals_of("a").label_map() == k).sum() for k in (1, 2, 3)]


def test_voc_files_have_its_colors(written):
    for name in SIZES:
        labels = proposals_of(name).label_map()
        with Image.open(written / f"out/voc/SegmentationObject/{name}.png") as objects:
            np.testing.assert_array_equal(np.asarray(objects), labels)
            np.testing.assert_array_equal(np.asarray(objects.convert("RGB")), voc_colors()[labels])
        with Image.open(written / f"out/voc/SegmentationClass/{name}.png") as classes:
            np.testing.assert_array_equal(np.asarray(classes), labels > 0)
    first = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128)]  # as VOC publishes them
    assert [tuple(color) for color in voc_colors()[:6].tolist()] == first
    assert voc_colors()[[8, 9, 64, 255]].tolist() == [[64, 0, 0], [192, 0, 0], [32, 0, 0], [224, 224, 192]]
    assert (written / "out/voc/ImageSets/Segmentation/default.txt").read_text().splitlines() == list(SIZES)


def test_png_files_hold_masks_and_labels(written):
    for name in SIZES:
        for rank, bitmap in enumerate(bitmaps_of(name), 1):
            picture = cv2.imread(str(written / f"out/masks/{name}/{rank:03}.png"), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(picture, bitmap * 255)
        with Image.open(written / f"out/labels/{name}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), proposals_of(name).label_map())


def test_a_file_of_all_images_appears_when_it_is_complete(tmp_path):
    with pytest.raises(RuntimeError, match="full"), open_formats(["coco", "cvat", "label_studio"], tmp_path, 1.0):
        raise RuntimeError("disk full")
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["labels.xml", "tasks.json.part"]  # a list of JSON keeps what it has so far


def test_the_tolerance_is_of_polygons(tmp_path):
    sizes = []
    for tolerance in (0.0, 1.0, 3.0):
        with open_formats(["coco"], tmp_path / str(tolerance), tolerance) as write:
            write(AnnotatedImage(1, Path("a.png"), "a", proposals_of("a")))
        content = json.loads((tmp_path / str(tolerance) / "coco/annotations.json").read_text())
        sizes.append(len(content["annotations"][0]["segmentation"][0]))
    assert sizes[0] > sizes[1] > sizes[2]


def test_voc_says_what_it_leaves_out(tmp_path, caplog):
    found = proposals_of("a")
    many = found[np.zeros(257, int)]
    with open_formats(["voc"], tmp_path, 1.0) as write:
        write(AnnotatedImage(1, tmp_path / "a.png", "a", many))
        write(AnnotatedImage(2, tmp_path / "b.png", "b", found))
    assert "voc: 3 proposals of 1 images are not in its files, which hold the best 254" in caplog.text
