"""Images held out for evaluation: by a seed, by image, and stable."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmask_jax.apps.command_line import prepare
from fastmask_jax.configuration import run_command
from fastmask_jax.data.coco.held_out import hold_out
from fastmask_jax.data.coco.instances import CocoImage, CocoSplit, read_instances
from fastmask_jax.data.coco.problem_report import ProblemReport
from fastmask_jax.data.records import RecordSource


def split_of(count: int) -> CocoSplit:
    return CocoSplit([CocoImage(n, f"{n:04}.jpg", None, None) for n in range(count)], ProblemReport())


def ids(split: CocoSplit) -> list[int]:
    return [image.image_id for image in split.images]


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 5))
def test_every_image_is_on_one_side(count, share, seed):
    kept, out = hold_out(split_of(count), share, seed)
    assert sorted(ids(kept) + ids(out)) == list(range(count))
    assert ids(kept) == sorted(ids(kept)) and ids(out) == sorted(ids(out))
    assert ids(kept) and ids(out) and abs(len(out.images) - share * count) <= 1
    assert ids(hold_out(split_of(count), share, seed)[1]) == ids(out)


def test_seeds_differ_and_more_images_change_little():
    held = [set(ids(hold_out(split_of(300), 0.2, seed)[1])) for seed in range(3)]
    assert all(len(one) == 60 for one in held)
    assert 0 < len(held[0] & held[1]) < 30 and held[0] != held[1] != held[2]
    later = set(ids(hold_out(split_of(330), 0.2, 0)[1]))
    assert len(held[0] & later) > 50


def test_one_image_cannot_be_split():
    with pytest.raises(ValueError, match="1 images cannot be split"):
        hold_out(split_of(1), 0.5, 0)


@pytest.fixture
def data(tmp_path):
    """Ten images; image 9 is broken, and the entry of image 3 has no size."""
    images, annotations = [], []
    for n in range(10):
        pixels = np.random.default_rng(n).integers(0, 256, (40 + n, 60, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{n}.png"), pixels)
        sizes = {} if n == 3 else {"height": 40 + n, "width": 60}
        images.append({"id": n, "file_name": f"{n}.png", **sizes})
        segmentation = [[5, 5, 30, 5, 30, 25, 5, 25]]
        annotations.append({"id": n, "image_id": n, "category_id": 4, "segmentation": segmentation, "iscrowd": 0})
    (tmp_path / "9.png").write_bytes(b"broken")
    content = {"images": images, "annotations": annotations, "categories": [{"id": 4, "name": "cup"}]}
    (tmp_path / "all.json").write_text(json.dumps(content))
    return tmp_path


def command(folder, *more):
    places = ["--annotations", str(folder / "all.json"), "--images", str(folder), "--out", str(folder / "out")]
    return run_command(lambda: prepare.main(["coco", *places, "--workers", "0", *more]))


def test_records_and_an_annotation_file(data, capsys):
    assert command(data, "--val", "0.4", "--seed", "1") == 0
    said = capsys.readouterr().out
    records = RecordSource(data / "out" / "train")
    held = read_instances(data / "out" / "val.json", data)
    assert not held.report and held.categories == [{"id": 4, "name": "cup"}]
    assert sorted([*records.index.image_id.tolist(), *ids(held)]) == list(range(9))
    assert all(image.size == (40 + image.image_id, 60) for image in held.images)
    assert all(len(image.annotations) == 1 for image in held.images)
    assert f"val.json: {len(ids(held))} images held out" in said and f"train: {len(records)} images" in said
    assert "9.png" in said  # on whichever side it is

    before = (data / "out" / "val.json").read_text()
    assert command(data, "--val", "0.4", "--seed", "2") == 2
    assert "already exists; use --overwrite" in capsys.readouterr().err
    assert (data / "out" / "val.json").read_text() == before
    assert command(data, "--val", "0.4", "--seed", "2", "--overwrite") == 0
    assert (data / "out" / "val.json").read_text() != before


@pytest.mark.parametrize("share", ["1", "-0.1", "20", "nan"])
def test_shares_out_of_range_are_refused(data, share, capsys):
    with pytest.raises(SystemExit):
        command(data, "--val", share)
    assert f"--val: {share}: expected a number from 0 and below 1" in capsys.readouterr().err
