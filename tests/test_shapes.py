"""The drawn dataset: equal files for equal seeds, masks that agree with pycocotools, and drawings that fit the spec."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from fastmask_jax.apps.command_line.prepare import main
from fastmask_jax.configuration import run_command
from fastmask_jax.data.coco.image_check import check
from fastmask_jax.data.coco.instances import read_instances
from fastmask_jax.data.prepare import prepare_shapes
from fastmask_jax.data.records import RecordSource
from fastmask_jax.data.shapes.dataset import ShapesSpec, draw, write_split
from fastmask_jax.data.shapes.outlines import SHAPES, outline
from fastmask_jax.data.shapes.textures import TEXTURES, distinct_color, texture

SPEC = ShapesSpec()


def files(root) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_same_seed_same_bytes_whatever_the_workers(tmp_path):
    for name, seed, workers in (("a", (3, 0), 0), ("b", (3, 0), 2), ("c", (4, 0), 0)):
        write_split(SPEC, tmp_path / name, "train", 20, seed, 1, workers)
    a, b, c = (files(tmp_path / name) for name in "abc")
    assert a == b and len(a) == 21
    assert a.keys() == c.keys() and not any(a[name] == c[name] for name in a)


def test_segmentations_decode_to_the_visible_masks(tmp_path, capsys):
    coco = COCO(str(write_split(SPEC, tmp_path, "val", 40, (1,), 100, 0)))
    kinds = set()
    for number in range(40):
        drawn = draw(SPEC, (1, number))
        annotations = coco.loadAnns(coco.getAnnIds(100 + number))
        assert len(annotations) == len(drawn.masks) <= SPEC.objects[1]
        assert (drawn.masks.sum(axis=0) <= 1).all()  # a pixel shows one object
        for entry, mask in zip(annotations, drawn.masks, strict=True):
            kinds.add(type(entry["segmentation"]))
            np.testing.assert_array_equal(coco.annToMask(entry), mask)
            np.testing.assert_array_equal(entry["bbox"], coco_mask.toBbox(coco.annToRLE(entry)))
            assert entry["area"] == mask.sum() >= 25
    assert kinds == {list, dict}


def test_read_as_coco_without_a_problem(tmp_path):
    split = read_instances(write_split(SPEC, tmp_path, "train", 30, (0,), 1, 0), tmp_path / "images")
    checked = check(split, workers=0)
    assert not split.report and len(checked) == 30


def test_sizes_and_shares_are_those_of_the_spec():
    drawn = [draw(SPEC, (9, k)) for k in range(150)]
    assert {d.image.shape[:2] for d in drawn} == set(SPEC.image_sizes)
    sides = np.array([max(np.ptp(np.nonzero(mask), axis=1)) + 1 for d in drawn for mask in d.masks])
    assert (sides <= SPEC.side[1] + 1).all() and (sides < 24).mean() < 0.12
    assert ((sides >= 28) & (sides <= 240)).mean() > 0.85
    assert min((sides < 60).mean(), (sides > 120).mean()) > 0.15  # small and large
    assert {shape for d in drawn for shape in d.shapes} == set(SHAPES)
    assert 3 < np.mean([len(d.masks) for d in drawn]) < 6


def test_an_object_is_where_its_mask_is_and_differs_from_what_is_around():
    """Without texture, lighting and noise, a mask has one color and its surroundings another; only edges are mixed."""
    flat = ShapesSpec(object_contrast=(0.0, 0.0), ground_contrast=(0.0, 0.0), lighting=0.0, noise=0.0)
    for k in range(30):
        drawn = draw(flat, (2, k))
        labels = np.zeros(drawn.image.shape[:2], int)
        for number, mask in enumerate(drawn.masks, 1):
            labels[mask] = number
        colors = []
        for number in range(len(drawn.masks) + 1):
            core = cv2.erode(np.uint8(labels == number), np.ones((5, 5)), borderValue=1).astype(bool)
            if core.any():
                colors.append(np.median(drawn.image[core], axis=0))
                # Tips thinner than a pixel are drawn faintly, but belong to no mask.
                assert (drawn.image[core] == colors[-1]).all(axis=1).mean() > 0.99
        middle = np.array(colors)
        apart = np.abs(middle[:, None] - middle[None]).max(axis=2) + 255 * np.eye(len(middle))
        assert apart.min() > 25


def test_hidden_objects_are_not_drawn():
    crowded = ShapesSpec(objects=(30, 30), side=(80.0, 200.0), min_visible=0.7, small_share=0.0)
    numbers = [len(draw(crowded, (5, k)).masks) for k in range(10)]
    assert min(numbers) >= 1 and max(numbers) < 15


@pytest.mark.parametrize("shape", SHAPES)
def test_outline_has_its_longest_side_about_the_origin(shape):
    for seed in range(20):
        curves = outline(np.random.default_rng(seed), shape, 50.0)
        low, high = curves[0].min(axis=0), curves[0].max(axis=0)
        assert (high - low).max() == pytest.approx(50) and low == pytest.approx(-high)
        for hole in curves[1:]:
            assert (hole.min(axis=0) > low).all() and (hole.max(axis=0) < high).all()


@pytest.mark.parametrize("kind", TEXTURES)
def test_texture_stays_within_its_contrast(kind):
    color = np.array([100, 120, 140], np.float32)
    for seed in range(10):
        pixels = texture(np.random.default_rng(seed), kind, 33, 47, color, 20.0)
        assert pixels.shape == (33, 47, 3) and pixels.dtype == np.float32
        assert np.abs(pixels - color).max() <= 20 * 1.4  # cubic noise overshoots a little
        assert kind == "plain" or pixels.std(axis=(0, 1)).max() > 1


def test_unknown_shape_or_texture():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="no shape 'cube'; there are ellipse"):
        outline(rng, "cube", 10.0)
    with pytest.raises(ValueError, match="no texture 'wood'"):
        texture(rng, "wood", 9, 9, np.zeros(3, np.float32), 1.0)


def test_distinct_color_is_the_farthest_candidate():
    others = np.array([[250, 250, 250], [240, 240, 255]], np.float32)
    darkest = distinct_color(np.random.default_rng(0), others, 200, (0.15, 1.0))
    assert darkest.mean() < 90


def test_prepare_shapes_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "shapes"
    command = ["shapes", "--out", str(out), "--train", "6", "--val", "3", "--workers", "0"]
    assert main(command) == 0
    assert "train: 6 images" in capsys.readouterr().out
    for name, number in (("train", 6), ("val", 3)):
        source = RecordSource(out / "records" / name)
        entries = json.loads((out / "annotations" / f"instances_{name}.json").read_text())
        assert len(source) == number and source.index.image_id.tolist() == [e["id"] for e in entries["images"]]
        assert source[0].image_bytes == (out / "images" / entries["images"][0]["file_name"]).read_bytes()
    before = files(out)
    assert run_command(lambda: main(command)) == 2
    assert "--overwrite" in capsys.readouterr().err and files(out) == before
    assert main([*command, "--overwrite", "--seed", "1"]) == 0
    assert files(out).keys() == before.keys() and files(out) != before


def test_prepare_shapes_leaves_other_peoples_files_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="not written by prepare"):
        prepare_shapes(tmp_path / "mine", train=1, val=1, seed=0, workers=0, overwrite=True)
    assert files(tmp_path) == {"mine/letter.txt": b"dear"}
