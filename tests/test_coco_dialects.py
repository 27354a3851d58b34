"""COCO JSON of other programs: clear deviations are accepted, contradictions to the mask are counted."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from fastmask_jax.data.coco.image_check import check
from fastmask_jax.data.coco.instances import check_sizes, read_instances
from fastmask_jax.data.coco.objects import objects_of
from fastmask_jax.data.coco.problem_report import Problem
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
    ("area", "taken"), [(0.02, 300), (90_000, 300), ("280", 280), (float("nan"), 300), (10**400, 300)]
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
    ],
)
def test_a_crowd_in_any_words(value, crowd):
    (found,), problems = objects_of([annotation(iscrowd=value)], SIZE, "a.jpg")
    assert found.crowd is crowd and not problems


@pytest.mark.parametrize("value", [2, "maybe", [1], float("nan")])
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


@pytest.mark.parametrize("name", ["%2E%2E/out.jpg", "..%5Cout.jpg", "a%00.jpg"])
def test_no_name_leads_out_of_the_folder(folder, name):
    (folder.parent / "out.jpg").write_bytes(encoded())
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
