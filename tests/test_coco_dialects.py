"""COCO JSON of other programs: clear deviations are accepted, contradictions to the mask are counted."""

import json
import unicodedata

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from fastmask_jax.data.coco.image_check import check
from fastmask_jax.data.coco.instances import check_sizes, read_instances
from fastmask_jax.data.coco.objects import objects_of
from fastmask_jax.data.coco.problem_report import Problem
from fastmask_jax.foreign_json import whole_number
from tests.test_coco_json import SIZE, SQUARE, annotation, encoded, folder, image_entry, problems_of, write

__all__ = ["folder"]  # the fixture


@pytest.mark.parametrize("scale", [1, 8])
@pytest.mark.parametrize(
    "bbox",
    [
        [100, 80, 220, 170],  # x1, y1, x2, y2
        [0.2, 0.16, 0.24, 0.18],  # fractions of the image's sides
        [160, 125, 120, 90],  # center instead of corner
        [100, 80, 60, 90],  # half of the object
        [300, 200, 120, 90],  # another object
        [80, 100, 90, 120],  # y, x, height, width
    ],
)
def test_a_box_of_something_else_is_counted_and_the_masks_box_taken(bbox, scale):
    polygon = np.array([[100, 80, 220, 80, 220, 170, 100, 170]]) * scale
    entry = {"id": 5, "segmentation": polygon.tolist(), "bbox": (np.array(bbox) * scale).tolist()}
    (found,), problems = objects_of([entry], (500 * scale, 500 * scale), "a.jpg")
    assert problems == [(Problem.BOX_ELSEWHERE, "annotation 5 of a.jpg")]
    assert found.box == tuple(side * scale for side in (100, 80, 120, 90))


@pytest.mark.parametrize("bbox", [[100, 80, 120, 90], [97.5, 82.1, 124, 88], [95, 75, 130, 100]])
def test_a_box_somewhat_beside_its_mask_is_taken(bbox):
    entry = {"id": 5, "segmentation": [[100, 80, 220, 80, 220, 170, 100, 170]], "bbox": bbox}
    (found,), problems = objects_of([entry], (500, 500), "a.jpg")
    assert not problems and found.box == pytest.approx(bbox)


@pytest.mark.parametrize(
    ("area", "taken"),
    [
        *[(0.02, 300), (90_000, 300), ("280", 280), (float("nan"), 300), (10**400, 300)],
        *[(0, 300), (-300, 300), ("large", 300), ([300], 300), (True, 300)],
    ],
)
def test_the_masks_area_is_taken_for_one_that_does_not_fit(area, taken):
    (found,), problems = objects_of([annotation(area=area)], SIZE, "a.jpg")
    assert found.area == taken
    fits = area == "280" or area != area
    assert [problem for problem, _ in problems] == ([] if fits else [Problem.AREA])


@pytest.mark.parametrize(
    ("value", "crowd"),
    [
        ("0", False),
        ("1", True),
        (0.0, False),
        (1.0, True),
        (None, False),
        (True, True),
        ("false", False),
        ("True", True),
        (" no", False),
        ("None", False),
        ("Y", True),
        ("0.0", False),
    ],
)
def test_a_crowd_in_any_words(value, crowd):
    (found,), problems = objects_of([annotation(iscrowd=value)], SIZE, "a.jpg")
    assert found.crowd is crowd and not problems


@pytest.mark.parametrize("value", [2, -1, 0.5, "maybe", [1], {}, float("nan")])
def test_what_is_no_crowd_flag_is_counted(value):
    (found,), problems = objects_of([annotation(iscrowd=value)], SIZE, "a.jpg")
    assert not found.crowd and [problem for problem, _ in problems] == [Problem.CROWD]


POINTS = [[10, 10], [30, 10], [30, 25], [10, 25]]


@pytest.mark.parametrize(
    "segmentation", [POINTS, [POINTS], [POINTS, [[0, 0], [5, 0], [5, 5]]], [*SQUARE, POINTS], SQUARE[0]]
)
def test_polygons_as_lists_of_points(segmentation):
    (found,), problems = objects_of([annotation(segmentation=segmentation, bbox=None)], SIZE, "a.jpg")
    expected = np.zeros(SIZE, bool)
    expected[10:25, 10:30] = True
    assert not problems
    np.testing.assert_array_equal(
        coco_mask.decode({"size": SIZE, "counts": found.counts})[10:, 10:], expected[10:, 10:]
    )


_RUNS = [40 * 10 + 10, *[15, 25] * 19, 15, 15 + 40 * 30]  # of the square: column by column
_COUNTS = coco_mask.frPyObjects({"size": list(SIZE), "counts": _RUNS}, *SIZE)["counts"].decode()


@pytest.mark.parametrize(
    "segmentation",
    [
        [{"size": list(SIZE), "counts": _COUNTS}],
        [{"size": list(SIZE), "counts": _RUNS}, {"size": list(SIZE), "counts": _COUNTS}],
        {"counts": _RUNS},
        {"counts": _COUNTS, "size": None},
        json.dumps({"size": list(SIZE), "counts": _RUNS}),
        json.dumps(SQUARE),
        [SQUARE],
        [{"x": x, "y": y} for x, y in POINTS],
        [[{"x": str(x), "y": y, "z": 0} for x, y in POINTS]],
    ],
)
def test_masks_in_other_forms(segmentation):
    (found,), problems = objects_of([annotation(segmentation=segmentation)], SIZE, "a.jpg")
    expected = np.zeros(SIZE, bool)
    expected[10:25, 10:30] = True
    assert not problems
    np.testing.assert_array_equal(coco_mask.decode({"size": SIZE, "counts": found.counts}), expected)


@pytest.mark.parametrize(
    ("segmentation", "problem"),
    [
        ({"size": list(SIZE[::-1]), "counts": _RUNS}, Problem.RLE_SIZE),
        ([{"size": list(SIZE), "counts": _RUNS}, {"counts": _RUNS[1:]}], Problem.RLE),
        ({"counts": _RUNS[:-1]}, Problem.RLE),
        ({}, Problem.NO_SEGMENTATION),
        ("none", Problem.NO_SEGMENTATION),
        ("[" * 50 + "]" * 50, Problem.NO_SEGMENTATION),
        ([{"x": 1}] * 3, Problem.RLE),
        ([[SQUARE]], Problem.POLYGON),
    ],
)
def test_invalid_masks_are_counted(segmentation, problem):
    objects, problems = objects_of([annotation(segmentation=segmentation)], SIZE, "a.jpg")
    assert not objects and problems == [(problem, "annotation 5 of a.jpg")]


def test_three_boxes_are_not_three_points():
    objects, problems = objects_of([annotation(segmentation=[[[1, 1, 5, 5]] * 3])], SIZE, "a.jpg")
    assert not objects and problems == [(Problem.POLYGON, "annotation 5 of a.jpg")]


@pytest.mark.parametrize(("one", "two"), [(1.0, 2.0), ("1", "2"), ("1", 2), (1, "2.0")])
def test_ids_in_other_forms_of_the_same_number(folder, one, two):
    (folder / "b.jpg").write_bytes(encoded())
    content = {
        "images": [image_entry(id=one), image_entry(id=two, file_name="b.jpg")],
        "annotations": [
            annotation(id=1.0, image_id=1),
            annotation(id="1", image_id=2.0),
            annotation(id=2, image_id="2"),
        ],
    }
    split = read_instances(write(folder, content), folder)
    checked = check(split, workers=0)
    assert not split.report
    assert [(c.image.image_id, [o.object_id for o in c.objects]) for c in checked] == [(1, [1]), (2, [1, 2])]


@pytest.mark.parametrize("category", [None, "cat", 3, 3.0, "3", [1], {}])
def test_any_category_is_taken(folder, category):
    report = problems_of(folder, [image_entry()], [annotation(category_id=category), annotation(id=6)])
    assert not report


@pytest.mark.parametrize(
    "name",
    [
        *("sub\\c.jpg", "sub/c.JPG", "sub\\c.JPG", "sub/../sub/c.jpg", "ABSOLUTE/sub/c.jpg", "d.jpg"),
        *("sub/c.jpeg", "sub/c.JFIF", "sub%2Fc.jpg", "sub%5Cc.jpeg"),
    ],
)
def test_names_of_other_programs_find_their_file(folder, name):
    (folder / "sub").mkdir()
    (folder / "sub/c.jpg").write_bytes(encoded())
    (folder / "d.JPG").write_bytes(encoded())
    name = name.replace("ABSOLUTE", str(folder))
    split = read_instances(write(folder, {"images": [image_entry(file_name=name)], "annotations": []}), folder)
    (image,) = split.images
    assert not split.report and image.path.is_file()
    assert image.file_name == ("d.JPG" if name == "d.jpg" else "sub/c.jpg")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("SUB\\Grün 1.JPEG", "sub/grün 1.jpg"),
        (unicodedata.normalize("NFD", "sub/grün 1.jpg"), "sub/grün 1.jpg"),
        (" sub/gr%C3%BCn%201.jpg ", "sub/grün 1.jpg"),
        ("photos/sub/grün 1.jpg", "sub/grün 1.jpg"),
        ("photos\\a.jpg", "a.jpg"),
        ("/mnt/disk/photos/sub/grün 1.jpg", "sub/grün 1.jpg"),
        ("C:\\Users\\me\\photos\\a.jpg", "a.jpg"),
        ("D:/a.jpg", "a.jpg"),
        ("file:///data/sub/Gr%C3%BCn%201.jpg", "sub/grün 1.jpg"),
        ("https://example.org/photos/a.jpg?size=full", "a.jpg"),
        ("/data/local-files/?d=sub/gr%C3%BCn%201.jpg", "sub/grün 1.jpg"),
        ("/data/local-files/?d=../out.jpg", None),
        ("twice.jfif", None),  # twice.jpg or twice.jpeg?
        ("twice.JPG", "twice.jpg"),
        ("other/a.jpg", None),
        ("sub/a.jpg", None),
        ("a", None),
        ("PARENT/out.jpg", None),
    ],
)
def test_names_of_other_machines_find_their_file(tmp_path, name, found):
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    for path in (photos / "sub/grün 1.jpg", photos / "twice.jpg", photos / "twice.jpeg", photos / "a.jpg"):
        path.write_bytes(encoded())
    (tmp_path / "out.jpg").write_bytes(encoded())
    content = {"images": [image_entry(file_name=name.replace("PARENT", str(tmp_path)))], "annotations": []}
    split = read_instances(write(tmp_path, content), photos)
    assert [image.file_name for image in split.images] == ([found] if found else [])
    assert bool(split.report) is (found is None)


def test_two_entries_of_one_file_are_counted(folder):
    entries = [image_entry(id=number, file_name=f"/{where}/a.jpg") for number, where in ((1, "train"), (2, "val"))]
    split = read_instances(write(folder, {"images": entries, "annotations": []}), folder)
    assert len(split.images) == 2
    assert split.report.examples == {Problem.IMAGE_FILE_TWICE: ["a.jpg (/train/a.jpg, /val/a.jpg)"]}


@pytest.mark.parametrize("number", ["1_0", "0x10", "1e400", "ten", "1.5", 2.5, None, True, [1]])
def test_values_that_are_not_whole_numbers(number):
    assert whole_number(number) is None


@pytest.mark.parametrize("name", ["%2E%2E/out.jpg", "..%5Cout.jpg", "a%00.jpg", "/mnt/..%2Fout.jpg"])
def test_no_name_leads_out_of_the_folder(folder, name):
    (folder.parent / "out.jpg").write_bytes(encoded())
    split = read_instances(write(folder, {"images": [image_entry(file_name=name)], "annotations": []}), folder)
    assert not split.images and split.report.counts == {Problem.IMAGE_MISSING: 1}


@pytest.mark.parametrize(
    "name",
    [
        *("http://[a.jpg", "http://[a]/a.jpg", "http%3A//[a.jpg", "http://\u2100/a.jpg"),  # no URLs
        *("http://../../../b.jpg", "/mnt/photos/b.jpg", "C:\\photos\\b.jpg"),
    ],
)
def test_urls_and_absolute_names_of_no_file_are_missing(folder, name):
    split = read_instances(write(folder, {"images": [image_entry(file_name=name)], "annotations": []}), folder)
    assert not split.images and split.report.counts == {Problem.IMAGE_MISSING: 1}


def test_numbers_as_texts():
    texts = {"segmentation": [[str(v) for v in SQUARE[0]]], "bbox": [str(v) for v in annotation()["bbox"]]}
    (found,), problems = objects_of([annotation(**texts)], SIZE, "a.jpg")
    (expected,), _ = objects_of([annotation()], SIZE, "a.jpg")
    assert not problems and found == expected
    rle = {"size": [str(side) for side in SIZE], "counts": found.counts.decode()}
    (again,), problems = objects_of([annotation(segmentation=rle)], SIZE, "a.jpg")
    assert not problems and again == expected


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_no_content(folder, encoding):
    path = write(folder, {"images": [image_entry()], "annotations": [annotation()]})
    path.write_text(path.read_text(), encoding)
    assert len(read_instances(path, folder).images) == 1


@pytest.mark.parametrize("side", [0, -5, "tall", float("nan"), float("inf"), 39.5, [40]])
def test_an_impossible_size_is_counted_and_the_files_taken(folder, side):
    split = read_instances(write(folder, {"images": [image_entry(height=side)], "annotations": [annotation()]}), folder)
    (checked,) = check(split, workers=0)
    assert checked.size == SIZE and split.report.counts == {Problem.IMAGE_NO_SIZE: 1}
    assert f"1 (a.jpg: height {side!r}, width 60)" in split.report.summary()
    with pytest.raises(ValueError, match=r"instances.json: image 1 \(a.jpg\) has no height and width \(1 of 1 "):
        check_sizes(split.images, folder / "instances.json")


@pytest.mark.parametrize("sides", [("40", "60"), (40.0, 60.0)])
def test_sizes_in_other_forms(folder, sides):
    report = problems_of(folder, [image_entry(height=sides[0], width=sides[1])], [annotation()])
    assert not report
