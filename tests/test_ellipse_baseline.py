"""The ellipse baseline: its windows, ellipses and results file, and the tables of results."""

import json
import math

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from fastmask_jax.configuration import load_config
from fastmask_jax.evaluation import ellipse_baseline
from fastmask_jax.evaluation.ellipse_baseline import (
    ellipse_logits,
    ellipse_proposals,
    ranked_windows,
    write_ellipse_baseline,
)
from fastmask_jax.evaluation.recall_table import PUBLISHED, PUBLISHED_FASTMASK, Row, markdown_table, text_table
from fastmask_jax.geometry import resized_size, window_grids
from fastmask_jax.masks.coco_results import read_results

STRIDES = (16, 24, 32, 48, 64, 96, 128)


@pytest.mark.parametrize("size", [(480, 640), (640, 427), (870, 870), (30, 640)])
def test_larger_windows_first_then_nearer_the_center(size):
    resized = resized_size(*size, 870)
    count = sum(rows * columns for rows, columns in window_grids(*resized, STRIDES))
    windows = ranked_windows(resized, STRIDES, 100_000)
    assert len({tuple(window) for window in windows.tolist()}) == len(windows) == count
    assert len(ranked_windows(resized, STRIDES, 50)) == 50
    last = (math.inf, 0.0)
    for level, i, j in windows.tolist():
        stride = STRIDES[level]
        here = (stride, math.hypot(i * stride - resized[0] / 2, j * stride - resized[1] / 2))
        assert here[0] < last[0] or (here[0] == last[0] and here[1] >= last[1])
        last = here


def test_masks_are_the_ellipses_cut_at_the_border():
    original = (300, 420)
    resized = resized_size(*original, 870)
    view = {"strides": STRIDES, "long_edge": 870, "threshold": 0.2}
    proposals = ellipse_proposals(original, **view, max_proposals=400)
    windows = ranked_windows(resized, STRIDES, 400)[proposals.kept]
    assert (np.diff(proposals.scores) < 0).all() and proposals.scores[0] <= 1
    y, x = np.mgrid[0.5 : original[0], 0.5 : original[1]]
    scale = np.array(original) / resized
    for mask, (level, i, j) in list(zip(proposals.segmentations, windows, strict=True))[::7]:
        drawn = coco_mask.decode(mask)
        center, radius = np.array([i, j]) * STRIDES[level] * scale, 0.55 / 2 * 10 * STRIDES[level] * scale
        ellipse = ((y - center[0]) / radius[0]) ** 2 + ((x - center[1]) / radius[1]) ** 2 <= 1
        union = (drawn.astype(bool) | ellipse).sum()
        # Window edges are rounded to whole pixels, which moves an ellipse by up to half of one.
        assert (drawn.astype(bool) & ellipse).sum() >= union - 2 * np.pi * radius.max()
        assert (drawn.astype(bool) & ellipse).sum() >= 0.9 * union or union < 100


def test_ellipse_is_even_on_all_sides():
    logits = ellipse_logits(0.2)
    for turned in (logits.T, logits[::-1], logits[:, ::-1]):
        np.testing.assert_allclose(logits, turned, atol=1e-5)
    assert (logits > np.log(0.25)).mean() == pytest.approx(np.pi / 4 * 0.55**2, rel=0.03)


def annotation_file(tmp_path):
    images = [{"id": n, "height": 60 + n, "width": 90, "file_name": f"{n}.jpg"} for n in (5, 2, 9)]
    box = [30.0, 20.0, 25.0, 25.0]
    polygon = [[30, 20, 55, 20, 55, 45, 30, 45]]
    objects = [
        {
            "id": n + 1,
            "image_id": n,
            "bbox": box,
            "area": 625.0,
            "iscrowd": 0,
            "category_id": 1,
            "segmentation": polygon,
        }
        for n in (2, 9)
    ]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"images": images, "annotations": objects}))
    return path


def test_file_is_the_same_each_time(tmp_path):
    annotations = annotation_file(tmp_path)
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    config = load_config("coco")
    first, second = (write_ellipse_baseline(annotations, path, config, max_proposals=60) for path in (one, two))
    assert first == second
    assert one.read_bytes() == two.read_bytes()
    entries = list(read_results(one))
    assert [entry["image_id"] for entry in entries] == sorted(entry["image_id"] for entry in entries)
    assert {entry["image_id"] for entry in entries} == {2, 5, 9}
    write_ellipse_baseline(annotations, one, config, max_proposals=60, limit=2)
    assert {entry["image_id"] for entry in read_results(one)} == {2, 5}


def test_entry_point(tmp_path, capsys):
    arguments = ["--annotations", str(annotation_file(tmp_path)), "--out", str(tmp_path / "floor.json")]
    assert ellipse_baseline.main(arguments) == 0
    table = capsys.readouterr().out
    assert "ellipses, nothing learned" in table and "FastMask (ResNet-50), published" in table
    assert (
        ellipse_baseline.main(["--annotations", str(tmp_path / "none.json"), "--out", str(tmp_path / "floor.json")])
        == 2
    )
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and "none.json: no such annotation file" in told.err and not told.out


def test_tables():
    figures = {"segm/AR@10": 0.1234, "segm/AR@100": 1.0, "segm/AR_small@100": math.nan, "bbox/AR@10": 0.0}
    rows = [Row("ours", figures, 0.4567), PUBLISHED_FASTMASK]
    head, rule, ours, published = text_table(rows).splitlines()
    assert ours.split() == ["ours", ".123", "1.000", "–", "–", "–", "–", ".000", "–", "–", ".457"]
    assert published.split()[3:] == [".169", *"–––––", ".227", ".430", ".568", ".33", "(Titan", "X)"]
    assert len(head) == len(rule) == len(ours) == len(published)
    lines = markdown_table([*rows, *PUBLISHED]).splitlines()
    assert len(lines) == 4 + len(PUBLISHED) and len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| ours | .123 | 1.000 | – | – | – | – | .000 | – | – | .457 |"
