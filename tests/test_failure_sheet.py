"""The contact sheet of an evaluation, on images of squares that are found well, badly or not at all."""

import json
import sys

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from fastmask_jax.apps.command_line import evaluate
from fastmask_jax.evaluation import failure_sheet
from fastmask_jax.evaluation.average_recall import average_recall
from fastmask_jax.evaluation.failure_sheet import COLUMNS, contact_sheet, write_sheet

SIZE = (150, 200)
SIDES = {"small": 20, "medium": 60, "large": 120}


def square(x, y, width, height):
    bitmap = np.zeros(SIZE, np.uint8, order="F")
    bitmap[y : y + height, x : x + width] = 1
    return {"size": list(SIZE), "counts": coco_mask.encode(bitmap)["counts"].decode()}


@pytest.fixture
def split(tmp_path):
    """Image n has one square; proposals cover `share` of its width, and nothing else."""
    images, annotations, results = [], [], []

    def add(side, share, score=0.5):
        n = len(images) + 1
        images.append({"id": n, "file_name": f"{n}.png", "height": SIZE[0], "width": SIZE[1]})
        cv2.imwrite(str(tmp_path / f"{n}.png"), np.full((*SIZE, 3), 90, np.uint8))
        box = [10, 10, side, side]
        entry = {"id": n, "image_id": n, "category_id": 1, "iscrowd": 0, "area": side * side, "bbox": box}
        annotations.append(entry | {"segmentation": square(*box)})
        if share:
            mask = square(10, 10, round(side * share), side)
            results.append({"image_id": n, "category_id": 1, "segmentation": mask, "score": score})
        return n

    def write():
        (tmp_path / "gt.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
        (tmp_path / "results.json").write_text(json.dumps(results))
        return tmp_path / "gt.json", tmp_path, tmp_path / "results.json"

    return add, write


@pytest.fixture
def drawn(monkeypatch):
    """The rows of the sheet that is drawn: {title: [(image id, IoU), ...]}."""
    rows = {}

    def note(titled, images, exif):
        rows.clear()
        rows.update({title: [(m.image.image_id, round(m.iou, 2)) for m in matches] for title, matches in titled})
        return contact_sheet(titled, images, exif)

    monkeypatch.setattr(failure_sheet, "contact_sheet", note)
    return rows


def test_objects_stand_in_the_rows_they_belong_to(split, drawn, tmp_path):
    add, write = split
    well = [add(60, share) for share in (0.8, 1.0, 0.9)]
    badly = add(120, 0.5)
    missed = {size: add(side, share) for (size, side), share in zip(SIDES.items(), (0, 0.4, 0.3), strict=True)}
    files = write()
    write_sheet(*files, tmp_path / "out" / "sheet.png")
    best, worst, small, medium, large = drawn.items()
    assert best[0].startswith("best matched: 4 of 7 objects found")
    assert best[1] == [(well[1], 1.0), (well[2], 0.9), (well[0], 0.8), (badly, 0.5)]
    assert worst == ("worst matched", best[1][::-1])
    assert small == ("missed small: 1 of 1", [(missed["small"], 0.0)])
    assert medium == ("missed medium: 1 of 4", [(missed["medium"], 0.4)])
    assert large == ("missed large: 1 of 2", [(missed["large"], 0.3)])
    picture = cv2.imread(str(tmp_path / "out" / "sheet.png"))[..., ::-1]
    assert picture.shape[1] > COLUMNS * failure_sheet.SIDE
    assert all((picture == color).all(-1).any() for color in (failure_sheet.WHITE, failure_sheet.MAGENTA))
    # found at IoU 0.5 is what average recall calls found there
    recall = average_recall(files[0], files[2])["segm/AR@100"]
    thresholds = np.linspace(0.5, 0.95, 10)
    ious = np.array([iou for row in (best, small, medium, large) for _, iou in row[1]])
    assert recall == pytest.approx((ious[:, None] >= thresholds - 1e-9).mean())


def test_a_row_holds_so_many_images_and_no_image_twice(split, drawn, tmp_path):
    add, write = split
    shares = np.random.default_rng(0).permutation(np.linspace(0.55, 1, COLUMNS + 5))
    ids = [add(100, share) for share in shares]
    annotations, images, results = write()
    twin = json.loads(annotations.read_text())
    twin["annotations"].append(twin["annotations"][0] | {"id": 99})  # a second object in the first image
    annotations.write_text(json.dumps(twin))
    write_sheet(annotations, images, results, tmp_path / "sheet.png")
    best, worst, *_ = drawn.values()
    order = [ids[n] for n in np.argsort(-shares)]
    assert [n for n, _ in best] == order[:COLUMNS]
    assert [n for n, _ in worst] == order[::-1][:COLUMNS]


def test_the_order_of_the_results_changes_nothing(split, drawn, tmp_path):
    add, write = split
    for n in range(20):
        add(60, (0, 0.3, 0.7)[n % 3], score=n / 20)
    annotations, images, results = write()
    write_sheet(annotations, images, results, tmp_path / "one.png")
    first = dict(drawn)
    assert len(first["missed medium: 14 of 20"]) == COLUMNS
    entries = json.loads(results.read_text())
    far = square(190, 140, 5, 5)
    scattered = [*entries[::-1], {"image_id": 2, "category_id": 1, "segmentation": far, "score": 0.9}]
    results.write_text(json.dumps(scattered))
    write_sheet(annotations, images, results, tmp_path / "two.png")
    assert dict(drawn) == first


def test_a_broken_image_has_a_cell_and_crowds_have_none(split, drawn, tmp_path):
    add, write = split
    gone, crowded = add(60, 0), add(60, 1.0)
    annotations, images, results = write()
    (images / f"{gone}.png").unlink()
    content = json.loads(annotations.read_text())
    content["annotations"][crowded - 1]["iscrowd"] = 1
    annotations.write_text(json.dumps(content))
    write_sheet(annotations, images, results, tmp_path / "sheet.png")
    assert [row for row in drawn.values() if row] == [[(gone, 0.0)]]
    with pytest.raises(ValueError, match="no objects in 0 images"):
        write_sheet(annotations, images, results, tmp_path / "sheet.png", limit=0)


def test_the_command_draws_any_systems_results(split, tmp_path, monkeypatch, capsys):
    add, write = split
    add(60, 0.9)
    annotations, images, results = map(str, write())
    words = ["evaluate.py", "--results", results, "--annotations", annotations, "--sheet"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):
        evaluate.main()
    assert "--sheet with --results needs --images" in capsys.readouterr().err
    for named, path in (([], tmp_path / "pictures" / "sheet.png"), (["x.png"], tmp_path / "x.png")):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [*words, *named, "--images", images])
        assert evaluate.main() == 0
        assert path.stat().st_size > 1000 and f"contact sheet: {named[0] if named else path}" in capsys.readouterr().out
