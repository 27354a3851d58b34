"""Proposals, and images of many kinds, compared with plain loops, PIL and pycocotools."""

import dataclasses
import io
import json
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from fastmask_jax.inference.image_input import read_image
from fastmask_jax.inference.proposals import Proposals, merged, mirrored_boxes
from fastmask_jax.masks.paste import Runs
from fastmask_jax.masks.rle import encode, mirrored, tight_boxes

H, W = 24, 34


def make(count=7, seed=0):
    rng = np.random.default_rng(seed)
    bitmaps = np.zeros((count, H, W), bool)
    for bitmap in bitmaps:
        y, x, height, width = rng.integers(2, 10, 4)
        bitmap[y : y + height, x : x + width] = True
    rles = [coco_mask.encode(np.asfortranarray(bitmap)) for bitmap in bitmaps]
    left, top, side = rng.integers(-8, 20, count), rng.integers(-8, 20, count), rng.integers(10, 40, count)
    proposals = Proposals(
        scores=np.sort(rng.uniform(0, 1, count).astype(np.float32))[::-1],
        boxes=np.array([coco_mask.toBbox(rle) for rle in rles], np.float32).reshape(-1, 4),
        rles=[{"size": [H, W], "counts": rle["counts"].decode()} for rle in rles],
        windows=rng.integers(0, 9, (count, 3), np.int32),
        long_edges=rng.integers(90, 99, count, np.int32),
        mirrored=rng.random(count) < 0.5,
        window_boxes=np.stack([left, top, left + side, top + side], 1),
        attention=rng.uniform(0, 1, (count, 10, 10)).astype(np.float32),
        image=rng.integers(0, 256, (H, W, 3), np.uint8),
    )
    return proposals, bitmaps


def test_masks_and_areas():
    found, bitmaps = make()
    np.testing.assert_array_equal(found.masks(), bitmaps)
    np.testing.assert_array_equal(found.mask(3), bitmaps[3])
    np.testing.assert_array_equal(found.areas, bitmaps.sum((1, 2)))
    assert len(found) == 7 and found.image_size == (H, W) and "7 proposals of a 24 x 34 image" in repr(found)


def test_some_of_the_proposals():
    found, bitmaps = make()
    for which in (slice(1, 5, 2), [4, 0, 0], np.array([6]), found.scores < 0.5, slice(0, 0), -2, np.int64(3)):
        some = found[which]
        numbers = np.atleast_1d(np.arange(7)[which])
        np.testing.assert_array_equal(some.scores, found.scores[numbers])
        np.testing.assert_array_equal(some.windows, found.windows[numbers])
        np.testing.assert_array_equal(some.masks(), bitmaps[numbers])
        np.testing.assert_array_equal(some.areas, found.areas[numbers])
    assert len(found[[]]) == 0
    assert [one.scores[0] for one in found] == found.scores.tolist()
    with pytest.raises(IndexError):
        found[7]


def test_attention_lies_in_its_window_and_is_cut_at_the_image():
    found, _ = make()
    for k, (x1, y1, x2, y2) in enumerate(found.window_boxes):
        expected = np.zeros((H, W), np.float32)
        for y in range(max(y1, 0), min(y2, H)):
            for x in range(max(x1, 0), min(x2, W)):
                row, column = int((y + 0.5 - y1) / (y2 - y1) * 10), int((x + 0.5 - x1) / (x2 - x1) * 10)
                expected[y, x] = found.attention[k, row, column]
        np.testing.assert_array_equal(found.attention_map(k), expected)


def test_cutouts_show_the_object_alone():
    found, bitmaps = make()
    for cutout, bitmap, (x, y, width, height) in zip(found.cutouts(), bitmaps, found.boxes.astype(int), strict=True):
        pixels = np.asarray(cutout)
        assert pixels.shape == (height, width, 4)
        part = slice(y, y + height), slice(x, x + width)
        np.testing.assert_array_equal(pixels[:, :, 3], bitmap[part] * 255)
        np.testing.assert_array_equal(pixels[:, :, :3], found.image[part])


def test_overlay_changes_the_masks_and_little_else():
    found, bitmaps = make(2)
    picture = np.asarray(found.overlay(scores=False, colors=np.array([[255, 0, 0], [0, 255, 0]], np.uint8)))
    changed = (picture != found.image).any(-1)
    assert changed[bitmaps.any(0)].mean() > 0.9
    around = cv2.dilate(bitmaps.any(0).astype(np.uint8), np.ones((3, 3))) > 0
    assert not changed[~around].any()
    assert found.overlay().size == (W, H)
    assert make(0)[0].overlay().size == make(0)[0].overlay(colors=[]).size == (W, H)
    named = found.overlay(scores=False, colors=[(255, 0, 0), (0, 255, 0)])
    np.testing.assert_array_equal(np.asarray(named), picture)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"count": -1}, "count=-1: expected an integer from 1"),
        ({"nms_iou": 2.0}, "nms_iou=2.0: expected an IoU between 0 and 1"),
        ({"score_threshold": 7.0}, "score_threshold=7.0: expected an objectness"),
        ({"min_area": -1}, "min_area=-1: expected a number of pixels"),
    ],
)
def test_filters_out_of_range_are_refused(wrong, line):
    with pytest.raises(ValueError, match=line):
        make()[0].filtered(**wrong)


def test_results_are_json_that_pycocotools_takes():
    found, bitmaps = make()
    entries = json.loads(json.dumps(found.to_results(17)))
    assert {entry["image_id"] for entry in entries} == {17} and {entry["category_id"] for entry in entries} == {1}
    for k, entry in enumerate(entries):
        assert np.float32(entry["score"]) == found.scores[k]
        assert entry["bbox"] == found.boxes[k].tolist()
        np.testing.assert_array_equal(coco_mask.decode(entry["segmentation"]), bitmaps[k])


def test_one_label_for_every_pixel_parts_and_groups():
    found, bitmaps = make()
    labels = found.label_map()
    for k in range(7):
        np.testing.assert_array_equal(labels == k + 1, bitmaps[k] & ~bitmaps[:k].any(0))  # the scores fall
    kinds = found.hierarchy(), found.hierarchy(0.5)
    assert all(len(kind.parent) == 7 for kind in kinds)
    assert (found.groups(1.0) == np.arange(7)).all() and set(found.groups(0.0).tolist()) < set(range(7))


def test_polygons_and_boxes_of_masks():
    found, _ = make()
    for box, (x, y, width, height), parts in zip(found.boxes_xyxy, found.boxes, found.polygons(), strict=True):
        assert box.tolist() == [x, y, x + width, y + height]
        (rectangle,) = parts
        assert not rectangle.holes and len(rectangle.outer) == 4
        assert [*rectangle.outer.min(0), *rectangle.outer.max(0)] == box.tolist()


def test_cleaned_masks_have_their_own_boxes():
    found, _ = make(1)
    bitmap = np.zeros((H, W), bool)
    bitmap[3:13, 4:14] = True
    bitmap[5, 5] = False
    bitmap[20, 30] = True
    rle = coco_mask.encode(np.asfortranarray(bitmap.view(np.uint8)))
    found = dataclasses.replace(found, rles=[rle | {"counts": rle["counts"].decode()}])
    cleaned = found.cleaned(min_part=2, fill_holes=1)
    assert cleaned.areas.tolist() == [100] and cleaned.boxes.tolist() == [[4, 3, 10, 10]]
    assert found.areas.tolist() == [100] and found.cleaned().areas.tolist() == [100]
    assert make(0)[0].cleaned(min_part=9).boxes.shape == (0, 4)


@pytest.mark.parametrize("count", [0, 7])
def test_supervision_takes_the_proposals(count):
    pytest.importorskip("supervision", reason="supervision is not installed")
    found, bitmaps = make(count)
    detections = found.to_supervision()
    assert len(detections) == count
    np.testing.assert_array_equal(detections.mask, bitmaps)
    np.testing.assert_array_equal(detections.confidence, found.scores)
    np.testing.assert_array_equal(detections.xyxy, found.boxes_xyxy)
    np.testing.assert_array_equal(detections.area, bitmaps.sum((1, 2)))


def test_without_supervision_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        make()[0].to_supervision()


@pytest.mark.parametrize("count", [0, 7])
def test_npz(tmp_path, count):
    found, bitmaps = make(count)
    with np.load(found.save_npz(tmp_path / "found"), allow_pickle=False) as saved:
        assert (tmp_path / "found").is_file()
        for name in ("scores", "boxes", "windows", "long_edges", "mirrored", "window_boxes", "attention"):
            np.testing.assert_array_equal(saved[name], getattr(found, name))
        for counts, bitmap in zip(saved["counts"].tolist(), bitmaps, strict=True):
            rle = {"size": saved["image_size"].tolist(), "counts": counts}
            np.testing.assert_array_equal(coco_mask.decode(rle), bitmap)


def test_merged_is_sorted_and_stable():
    (one, _), (other, _) = make(seed=1), make(seed=2)
    both = merged([one, other])
    np.testing.assert_array_equal(both.scores, np.sort(np.concatenate([one.scores, other.scores]))[::-1])
    twice = merged([one, one])
    np.testing.assert_array_equal(twice.windows, np.repeat(one.windows, 2, axis=0))


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_mirrored_runs_are_those_of_mirrored_bitmaps(seed, height, width):
    rng = np.random.default_rng(seed)
    bitmaps = rng.random((rng.integers(0, 5), height, width)) < rng.random()
    edges, splits = [], [0]
    for bitmap in bitmaps:  # every pixel a run of its own, and empty runs at the ends of columns
        for number in np.flatnonzero(bitmap.T):
            edges += [number, number + 1]
            if (number + 1) % height == 0 and rng.random() < 0.5:
                edges += [number + 1, number + 1]
        splits.append(len(edges))
    runs = Runs(np.array(edges, np.int64), np.array(splits, np.int64), (height, width))
    back = encode(mirrored(runs))
    assert len(back) == len(bitmaps)
    for rle, bitmap in zip(back, bitmaps, strict=True):
        np.testing.assert_array_equal(coco_mask.decode(rle), bitmap[:, ::-1])
    boxes = tight_boxes(runs)
    boxes[:, 0] = np.where(boxes[:, 2] > 0, width - boxes[:, 0] - boxes[:, 2], 0)
    np.testing.assert_array_equal(tight_boxes(mirrored(runs)), boxes)


def test_mirrored_window_boxes():
    assert mirrored_boxes(np.array([[-3, 2, 5, 9]]), 10).tolist() == [[5, 2, 13, 9]]


RGB = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)


def test_images_of_every_kind(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(RGB).save(path)
    alpha = np.dstack([RGB, np.arange(108, dtype=np.uint8).reshape(9, 12)])
    gray = RGB[:, :, 0]
    for image in (path, str(path), Image.open(path), RGB, RGB[::-1][::-1], alpha, Image.fromarray(alpha)):
        pixels = read_image(image)
        np.testing.assert_array_equal(pixels, RGB)
        assert pixels.flags.c_contiguous and pixels.flags.writeable and not np.shares_memory(pixels, RGB)
    for image in (gray, gray[:, :, None], Image.fromarray(gray), Image.fromarray(gray.astype(np.uint16) * 256 + 7)):
        np.testing.assert_array_equal(read_image(image), np.repeat(gray[:, :, None], 3, 2))
    palette = Image.fromarray(RGB).quantize(16)
    np.testing.assert_array_equal(read_image(palette), np.asarray(palette.convert("RGB")))
    bits = Image.fromarray(gray > 99)
    np.testing.assert_array_equal(read_image(bits)[:, :, 1], np.where(gray > 99, 255, 0))


def test_the_orientation_of_a_file_is_left_alone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    path = tmp_path / "turned.jpg"
    Image.fromarray(RGB).save(path, exif=exif)
    assert read_image(path).shape == read_image(Image.open(path)).shape == RGB.shape


def test_broken_images_are_named(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(RGB).save(whole, "png")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:200])
    cases = [
        (tmp_path / "none.png", r"none\.png: no such image"),
        (tmp_path, "is a folder: pass the images in it"),
        (Image.open(tmp_path / "cut.png"), r"cut\.png: .*truncated"),
        (Image.fromarray(np.full((3, 3), 300, np.float32)), "a PIL image: pixels are float32 from 300 to 300"),
        (np.zeros((3, 3), np.float32), r"float32\[3, 3\] is not an image: expected uint8, 0 to 255"),
        (np.zeros((3, 3, 2), np.uint8), r"uint8\[3, 3, 2\] is not an image"),
        (np.zeros((0, 3, 3), np.uint8), r"uint8\[0, 3, 3\] is not an image"),
    ]
    for image, line in cases:
        with pytest.raises((ValueError, FileNotFoundError), match=line) as error:
            read_image(image)
        assert "\n" not in str(error.value)
