"""Reading COCO JSON: masks compared with pycocotools, and every kind of damage made by hand."""

import contextlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

import fastmask_jax
from fastmask_jax.data.coco.image_check import check
from fastmask_jax.data.coco.instances import read_instances
from fastmask_jax.data.coco.objects import objects_of
from fastmask_jax.data.coco.problem_report import Problem, ProblemReport
from fastmask_jax.data.image_file import decode_image
from fastmask_jax.masks.rle import run_lengths
from tests.coco_mini import COCO_MINI, needs_coco_mini

SIZE = (40, 60)  # height, width
SQUARE = [[10, 10, 30, 10, 30, 25, 10, 25]]


def encoded(extension: str = ".jpg", size: tuple[int, int] = SIZE) -> bytes:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    return cv2.imencode(extension, image)[1].tobytes()


def write(folder: Path, content: dict) -> Path:
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def image_entry(**changes) -> dict:
    return {"id": 1, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]} | changes


def annotation(**changes) -> dict:
    return {"id": 5, "image_id": 1, "segmentation": SQUARE, "bbox": [10, 10, 20, 15], "area": 300} | changes


def without(entry: dict, key: str) -> dict:
    return {k: v for k, v in entry.items() if k != key}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "a.jpg").write_bytes(encoded())
    return tmp_path


def problems_of(folder: Path, images: list, annotations: list) -> ProblemReport:
    split = read_instances(write(folder, {"images": images, "annotations": annotations}), folder)
    check(split, workers=0)
    return split.report


BROKEN_IMAGES = [
    (Problem.IMAGE_ENTRY, without(image_entry(), "id"), "images[1]"),
    (Problem.IMAGE_ENTRY, image_entry(id="seven"), "images[1]"),
    (Problem.IMAGE_ENTRY, image_entry(id=True), "images[1]"),
    (Problem.IMAGE_ENTRY, image_entry(id=1 << 70), "images[1]"),
    (Problem.IMAGE_ENTRY, image_entry(id=7, file_name=""), "images[1]"),
    (Problem.IMAGE_ENTRY, "not an object", "images[1]"),
    (Problem.IMAGE_ID_TWICE, image_entry(), "1 (a.jpg)"),
    (Problem.IMAGE_OUTSIDE_FOLDER, image_entry(id=7, file_name="../a.jpg"), "../a.jpg"),
    (Problem.IMAGE_OUTSIDE_FOLDER, image_entry(id=7, file_name="x/../../a.jpg"), "x/../../a.jpg"),
    (Problem.IMAGE_OUTSIDE_FOLDER, image_entry(id=7, file_name=__file__), __file__),
    (Problem.IMAGE_MISSING, image_entry(id=7, file_name="b.jpg"), "b.jpg"),
    (Problem.IMAGE_MISSING, image_entry(id=7, file_name="."), "."),
    (Problem.IMAGE_MISSING, image_entry(id=7, file_name="x" * 300), "x" * 200 + "…"),
    (Problem.IMAGE_BROKEN, image_entry(id=7, file_name="cut.jpg"), "cut.jpg"),
    (Problem.IMAGE_BROKEN, image_entry(id=7, file_name="cut.png"), "cut.png"),
    (Problem.IMAGE_BROKEN, image_entry(id=7, file_name="empty.jpg"), "empty.jpg"),
    (Problem.IMAGE_BROKEN, image_entry(id=7, file_name="instances.json"), "instances.json"),
    (Problem.IMAGE_SIZE, image_entry(id=7, file_name="c.jpg", height=41), "c.jpg (file 40x60, entry 41x60)"),
]


@pytest.mark.parametrize(("problem", "entry", "named"), BROKEN_IMAGES)
def test_broken_image_is_counted_named_and_left_out(folder, problem, entry, named):
    (folder / "cut.jpg").write_bytes(encoded()[:-40])
    (folder / "cut.png").write_bytes(encoded(".png")[:-40])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "c.jpg").write_bytes(encoded())
    content = {"images": [image_entry(), entry], "annotations": [annotation(), annotation(id=6, image_id=7)]}
    split = read_instances(write(folder, content), folder)
    checked = check(split, workers=0)
    assert [c.image.image_id for c in checked] == [1] and len(checked[0].objects) == 1
    assert split.report.counts[problem] == 1 and split.report.examples[problem] == [named]
    # Image 7's annotation is counted, too: as unknown if no entry has that id.
    rest = without(split.report.counts, problem)
    known = isinstance(entry, dict) and entry.get("id") == 7
    assert rest == {Problem.OBJECT_OF_LOST_IMAGE if known else Problem.OBJECT_OF_UNKNOWN_IMAGE: 1}


FULL = {"size": list(SIZE), "counts": [0, 40 * 60]}
BROKEN_ANNOTATIONS = [
    (Problem.OBJECT_ENTRY, without(annotation(), "id")),
    (Problem.OBJECT_ENTRY, annotation(image_id=None)),
    (Problem.OBJECT_ENTRY, [1, 2]),
    (Problem.OBJECT_ID_TWICE, annotation()),
    (Problem.OBJECT_ENTRY, annotation(id=True)),
    (Problem.OBJECT_OF_UNKNOWN_IMAGE, annotation(id=6, image_id=99)),
    (Problem.NO_SEGMENTATION, without(annotation(id=6), "segmentation")),
    (Problem.NO_SEGMENTATION, annotation(id=6, segmentation=[])),
    (Problem.NO_SEGMENTATION, annotation(id=6, segmentation="x")),
    (Problem.POLYGON, annotation(id=6, segmentation=[[1, 1, 9, 9]])),
    (Problem.POLYGON, annotation(id=6, segmentation=[[1, 1, 9, 9, 3]])),
    (Problem.POLYGON, annotation(id=6, segmentation=[[1, 1, 9, 9, 3, 4, 5]])),
    (Problem.POLYGON, annotation(id=6, segmentation=[[1, 1, 5, 5, 9, 9]])),
    (Problem.POLYGON, annotation(id=6, segmentation=[[3, 3, 3, 3, 3, 3]])),
    (Problem.POLYGON, annotation(id=6, segmentation=[[1, 1, 9, float("nan"), 3, 4]])),
    (Problem.POLYGON, annotation(id=6, segmentation=[[1, 1, 9, float("inf"), 3, 4]])),
    (Problem.POLYGON, annotation(id=6, segmentation=[[1, 1, 9, "nine", 3, 4]])),
    (Problem.POLYGON, annotation(id=6, segmentation=[[1, 1, 9, 10**400, 3, 4]])),
    (Problem.POLYGON, annotation(id=6, segmentation=[1, 1, 9, 9])),
    (Problem.POLYGON_RELATIVE, annotation(id=6, segmentation=[[0.1, 0.1, 0.9, 0.1, 0.5, 1.0]])),
    (Problem.POLYGON_FAR, annotation(id=6, segmentation=[[1, 1, 1e12, 1, 5, 1e12]])),
    (Problem.OUTSIDE, annotation(id=6, segmentation=[[70, 1, 90, 1, 80, 20]])),
    (Problem.OUTSIDE, annotation(id=6, segmentation=[[-70, 1, -10, 1, -50, 20]])),
    (Problem.EMPTY_MASK, annotation(id=6, segmentation=[[5.1, 5.1, 5.2, 5.1, 5.15, 5.2]])),
    (Problem.EMPTY_MASK, annotation(id=6, segmentation={"size": list(SIZE), "counts": [2400]})),
    (Problem.RLE_SIZE, annotation(id=6, segmentation=FULL | {"size": [60, 40]})),
    (Problem.RLE, annotation(id=6, segmentation={"size": list(SIZE)})),
    (Problem.RLE, annotation(id=6, segmentation=FULL | {"counts": [0, 2401]})),
    (Problem.RLE, annotation(id=6, segmentation=FULL | {"counts": [-5, 2405]})),
    (Problem.RLE, annotation(id=6, segmentation=FULL | {"counts": [0.5, 2399.5]})),
    (Problem.RLE, annotation(id=6, segmentation=FULL | {"counts": []})),
    (Problem.RLE, annotation(id=6, segmentation=FULL | {"counts": ""})),
    (Problem.RLE, annotation(id=6, segmentation=FULL | {"counts": "0PP"})),
    (Problem.RLE, annotation(id=6, segmentation=FULL | {"counts": "é"})),
    (Problem.RLE, annotation(id=6, segmentation=FULL | {"counts": "P" * 30 + "0"})),
]


@pytest.mark.parametrize(("problem", "entry"), BROKEN_ANNOTATIONS)
def test_broken_annotation_is_counted_and_named(folder, problem, entry):
    report = problems_of(folder, [image_entry()], [annotation(), entry])
    assert report.counts == {problem: 1}
    named = report.examples[problem][0]
    assert str(entry["id"] if isinstance(entry, dict) and "id" in entry else "annotations[1]") in named or (
        "annotations[1]" in named
    )
    assert named in report.summary()


@pytest.mark.parametrize("bbox", [[10, 10, -3, 5], [10, 10, 5], [70, 10, 5, 5], [0, 0, float("nan"), 5], "x"])
def test_broken_box_is_counted_and_the_masks_box_taken(bbox):
    objects, found = objects_of([annotation(bbox=bbox)], SIZE, "a.jpg")
    assert [problem for problem, _ in found] == [Problem.BOX]
    assert objects[0].box == (10, 10, 20, 15)


def test_optional_keys_may_be_missing(folder):
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"id": 5, "image_id": 1, "segmentation": SQUARE}],
    }
    split = read_instances(write(folder, content), folder)
    (checked,) = check(split, workers=0)
    (found,) = checked.objects
    assert not split.report and checked.size == SIZE
    assert (found.box, found.area, found.crowd) == ((10, 10, 20, 15), 300, False)


def test_partly_outside_is_cut_to_the_image():
    (found,), problems = objects_of(
        [annotation(segmentation=[[-10, 5, 15, 5, 15, 60, -10, 60]], bbox=[-10, 5, 25, 55])], SIZE, ""
    )
    expected = np.zeros(SIZE, bool)
    expected[5:, :15] = True
    np.testing.assert_array_equal(coco_mask.decode({"size": SIZE, "counts": found.counts}), expected)
    assert not problems and found.box == (0, 5, 15, 35)


def test_a_broken_polygon_among_sound_ones_is_left_out_alone():
    (found,), problems = objects_of([annotation(segmentation=[[1, 1, 2, 2], *SQUARE, [3, 3, 3]])], SIZE, "a.jpg")
    assert problems == [(Problem.POLYGON, "annotation 5 of a.jpg")]
    assert coco_mask.area({"size": SIZE, "counts": found.counts}) == 300


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"images": [', "truncated"),
        ("", "truncated"),
        ("[1]", "list"),
        ('{"images": []}', "annotations"),
        ('{"annotations": []}', "images"),
        ('{"annotations": 3, "images": []}', "annotations"),
        ("[" * 100_000, "not readable"),
    ],
)
def test_unusable_file_is_one_line_with_its_name(tmp_path, text, says):
    path = tmp_path / "instances.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=says) as caught:
        read_instances(path, None)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_unreadable_places(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such annotation file"):
        read_instances(tmp_path / "none.json", None)
    with pytest.raises(FileNotFoundError, match="no such image folder"):
        read_instances(write(tmp_path, {"images": [], "annotations": []}), tmp_path / "none")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not readable"):
        read_instances(tmp_path / "binary.json", None)
    with pytest.raises(ValueError, match="not readable"):
        read_instances(tmp_path, None)


def masks() -> st.SearchStrategy:
    shape = st.tuples(st.integers(1, 30), st.integers(1, 30))
    return st.builds(
        lambda size, seed, share: np.asfortranarray(np.random.default_rng(seed).random(size) < share, np.uint8),
        shape,
        st.integers(0, 10_000),
        st.sampled_from([0.02, 0.5, 0.98]),
    )


@given(masks())
@settings(max_examples=100, deadline=None)
def test_run_lengths_against_counting(mask):
    flat = mask.ravel(order="F").tolist()
    expected, value = [0], 0
    for pixel in flat:
        if pixel != value:
            expected.append(0)
            value = pixel
        expected[-1] += 1
    np.testing.assert_array_equal(run_lengths(coco_mask.encode(mask)["counts"]), expected)


@given(st.binary(max_size=12))
@settings(max_examples=300, deadline=None)
def test_any_counts_are_taken_or_refused(counts):
    text = counts.decode("latin-1")
    objects, found = objects_of([annotation(segmentation=FULL | {"counts": text}, bbox=None)], SIZE, "a.jpg")
    assert len(objects) + len(found) == 1


@given(masks(), st.booleans())
@settings(max_examples=50, deadline=None)
def test_rle_of_both_kinds_keeps_the_mask(mask, compressed):
    rle = coco_mask.encode(mask)
    counts = rle["counts"].decode() if compressed else run_lengths(rle["counts"]).tolist()
    segmentation = {"size": list(mask.shape), "counts": counts}
    objects, _ = objects_of([annotation(segmentation=segmentation, bbox=None)], mask.shape, "")
    assert len(objects) == bool(mask.any())
    for found in objects:
        np.testing.assert_array_equal(coco_mask.decode({"size": mask.shape, "counts": found.counts}), mask)


@pytest.mark.parametrize("extension", [".jpg", ".png", ".bmp", ".webp"])
def test_decoded_as_rgb_and_truncation_found(extension):
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, :15] = (250, 10, 20)  # RGB: red on the left
    data = cv2.imencode(extension, image[:, :, ::-1])[1].tobytes()
    assert np.abs(decode_image(data)[:, [3, 25]].astype(int) - image[:, [3, 25]]).max() < 30
    for cut in (data[: len(data) // 2], data[:12], b""):
        with pytest.raises(ValueError, match="truncated"):
            decode_image(cut)


def test_gray_deep_and_transparent_files_become_rgb():
    gray = np.arange(200, dtype=np.uint8).reshape(10, 20)
    for array in (gray, gray.astype(np.uint16) * 257, np.dstack([gray] * 3 + [gray])):
        decoded = decode_image(cv2.imencode(".png", array)[1].tobytes())
        np.testing.assert_array_equal(decoded, np.dstack([gray] * 3))


def test_exif_orientation_is_ignored():
    data = encoded()
    tiff = b"MM\0*\0\0\0\x08\0\x01" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" + b"\0\0\0\0"  # orientation 6: turn it
    segment = b"Exif\0\0" + tiff
    turned = data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape[:2] == SIZE[::-1]  # OpenCV applies it
    np.testing.assert_array_equal(decode_image(turned), decode_image(data))


@needs_coco_mini
@pytest.mark.coco
@pytest.mark.parametrize("split_name", ["val", "train"])
def test_real_masks_are_those_of_pycocotools(split_name):
    path = COCO_MINI / "annotations" / f"instances_{split_name}.json"
    split = read_instances(path, COCO_MINI / "images")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(path))
    assert [image.image_id for image in split.images] == sorted(coco.imgs)
    for image in split.images:
        objects, found = objects_of(image.annotations, image.size, image.file_name)
        assert not found
        assert [o.object_id for o in objects] == coco.getAnnIds(image.image_id)
        for o in objects:
            entry = coco.anns[o.object_id]
            assert o.counts == coco.annToRLE(entry)["counts"]
            assert (o.area, o.crowd) == (entry["area"], bool(entry["iscrowd"]))
            np.testing.assert_allclose(o.box, entry["bbox"], atol=0.02)  # some boxes extend this far beyond the image
    assert not split.report


def test_data_imports_no_jax():
    root = Path(fastmask_jax.__file__).parent
    files = {path: path.read_text() for path in (root / "data").rglob("*.py")}
    for path, text in files.items():
        assert not re.search(r"^\s*(from|import) (jax|flax|optax|tensorflow)\b", text, re.MULTILINE), path
    grain = re.compile(r"import grain|fastmask_jax\.data\.pipeline import")  # which imports jax
    light = [path for path, text in files.items() if not grain.search(text)]
    loaded = [".".join(path.relative_to(root.parent).with_suffix("").parts) for path in light]
    assert {"fastmask_jax.data.coco.record_builder", "fastmask_jax.data.prepare", "fastmask_jax.data.records"} <= set(
        loaded
    )
    code = "import importlib, sys\n" + "".join(f"importlib.import_module('{module}')\n" for module in loaded)
    code += "print({'jax', 'tensorflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root.parent)
    assert done.stdout.strip() == "set()"
