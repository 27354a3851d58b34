"""The generator of proposals: against the evaluation's way, one image at a time, in threads, and with every option."""

import threading
from concurrent.futures import ThreadPoolExecutor

import cv2
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from pycocotools import mask as coco_mask

from fastmask_jax.data.pipeline import inference_batches
from fastmask_jax.inference import generator as generator_module
from fastmask_jax.inference.generator import ProposalGenerator
from fastmask_jax.inference.options import ProposeOptions
from fastmask_jax.inference.proposer import Proposer
from fastmask_jax.inference.proposing import propose_all
from tests.tiny import compilations

SIZES = [(72, 96), (96, 72), (144, 192), (48, 64), (71, 95)]
EVALUATION = {
    "long_edge": 96,
    "buckets": ((72, 96), (96, 72)),
    "batch_size": 1,
    "proposals": 100,
    "mask_threshold": 0.4,
}


def make(tiny_network, **changes):
    model, variables = tiny_network
    return ProposalGenerator(model, variables, ConfigDict({"evaluation": EVALUATION}), **changes)


@pytest.fixture(scope="module")
def generator(tiny_network):
    return make(tiny_network)


@pytest.fixture(scope="module")
def images():
    """Smooth random RGB images."""
    rng = np.random.default_rng(0)
    coarse = [rng.uniform(0, 255, (6, 8, 3)).astype(np.float32) for _ in SIZES]
    drawn = (
        cv2.resize(each, size[::-1], interpolation=cv2.INTER_CUBIC) for each, size in zip(coarse, SIZES, strict=True)
    )
    return [np.clip(each, 0, 255).astype(np.uint8) for each in drawn]


@pytest.fixture(scope="module")
def found(generator, images):
    """Of each image by itself."""
    return [generator.propose(image) for image in images]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for name in ("scores", "boxes", "windows", "window_boxes", "attention", "image", "mirrored"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    assert ours.rles == theirs.rles


def test_proposals_are_those_of_the_evaluation(tiny_network, images, found, tmp_path):
    paths = [tmp_path / f"{n}.png" for n in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        cv2.imwrite(str(path), image[:, :, ::-1])
    proposer = Proposer(*tiny_network, 100)
    batches = inference_batches(list(enumerate(paths)), EVALUATION["buckets"], 96, proposer.devices, 0, pytest.fail)
    theirs = dict(propose_all(proposer, batches, EVALUATION["mask_threshold"]))
    for number, ours in enumerate(found):
        assert len(ours) > 50 and np.ptp(ours.scores) > 0.1
        np.testing.assert_array_equal(ours.scores, theirs[number].scores)
        np.testing.assert_array_equal(ours.boxes, theirs[number].boxes)
        assert ours.rles == theirs[number].segmentations
        assert ours.empty == theirs[number].empty


def test_a_list_in_any_order_and_batch_gives_what_each_image_gives(generator, images, found):
    order = [3, 0, 4, 4, 1, 2, 0, 1]
    for ours, number in zip(generator.propose([images[n] for n in order]), order, strict=True):
        assert_same(ours, found[number])
    assert generator.propose([]) == []


def test_the_order_is_that_of_the_images_and_little_is_read_ahead(generator, images, found, monkeypatch):
    monkeypatch.setattr(generator_module, "AHEAD", 1)
    rows = len(jax.local_devices())
    taken = 0

    def endless():
        nonlocal taken
        while True:
            yield images[1 if taken == 0 else 0]  # the first is alone in its bucket: it never fills a batch
            taken += 1

    stream = generator.propose_iter(endless())
    for given in range(3 * rows):
        assert_same(next(stream), found[1 if given == 0 else 0])
        assert taken - given <= rows + generator_module.READING_THREADS + 2
    stream.close()


def test_a_broken_image_is_reported_and_the_rest_goes_on(generator, images, found, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    several = [images[0], tmp_path / "missing.jpg", str(tmp_path / "bad.jpg"), np.zeros((4, 4)), images[1]]
    lines = []
    first, *none, last = generator.propose_iter(several, on_problem=lines.append)
    assert_same(first, found[0])
    assert_same(last, found[1])
    assert none == [None] * 3 and len(lines) == 3
    assert "missing.jpg: no such image" in lines[0]
    assert "bad.jpg: an image of 8 bytes" in lines[1]
    assert "float64[4, 4] is no image: uint8 is wanted" in lines[2]
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg: no such image"):
        generator.propose(several)


def test_threads_get_what_one_gets_and_compile_once(tiny_network, images, found):
    shared = make(tiny_network)
    jax.clear_caches()
    start = threading.Barrier(4)

    def work(_):
        start.wait()
        return [shared.propose(images[n]) for n in (0, 1)]

    with compilations() as compiled, ThreadPoolExecutor(4) as pool:
        several = list(pool.map(work, range(4)))
    assert len(compiled) == 2
    for both in several:
        assert_same(both[0], found[0])
        assert_same(both[1], found[1])
    with compilations() as compiled:
        shared.propose([images[3], images[4]])  # other sizes in the same buckets
    assert not compiled


def test_a_long_pause_for_compiling_is_explained(tiny_network, images, monkeypatch):
    lines = []
    said = threading.Event()

    def report(line):
        lines.append(line)
        said.set()

    pausing = make(tiny_network, report=report)
    work = Proposer.__call__
    monkeypatch.setattr(generator_module, "QUIET_SECONDS", 0.01)
    monkeypatch.setattr(Proposer, "__call__", lambda *arguments: (said.wait(60), work(*arguments))[1])
    pausing.propose(images[0])
    pausing.propose(images[0])
    assert len(lines) == 1
    assert lines[0].startswith("compiling for 72 x 96 images ... once; ")


def plain_filter(bitmaps, scores, count, score_threshold, nms_iou, min_area):
    kept = []
    for n, bitmap in enumerate(bitmaps):
        rivals = [(bitmap & bitmaps[m]).sum() / (bitmap | bitmaps[m]).sum() for m in kept]
        if scores[n] >= score_threshold and bitmap.sum() >= min_area and max(rivals, default=0) <= nms_iou:
            kept.append(n)
    return kept[:count]


@pytest.mark.parametrize(
    ("count", "score_threshold", "nms_iou", "smaller"),
    [(7, 0.0, 1.0, 0.0), (100, 0.5, 1.0, 0.0), (100, 0.0, 0.5, 0.0), (100, 0.0, 1.0, 0.7), (5, 0.3, 0.6, 0.2)],
)
def test_filters_are_those_of_a_plain_loop(generator, images, found, count, score_threshold, nms_iou, smaller):
    min_area = int(np.quantile(found[0].areas, smaller))
    options = ProposeOptions(count=count, score_threshold=score_threshold, nms_iou=nms_iou, min_area=min_area)
    bitmaps = [coco_mask.decode(rle).astype(bool) for rle in found[0].rles]
    kept = plain_filter(bitmaps, found[0].scores, count, score_threshold, nms_iou, min_area)
    assert 0 < len(kept) < len(bitmaps)
    assert_same(generator.propose(images[0], options), found[0][kept])


def test_changes_come_before_options(generator, images, found):
    assert_same(generator.propose(images[0], ProposeOptions(count=9), count=4), found[0][:4])


def test_a_lower_mask_threshold_gives_larger_masks(generator, images, found):
    larger = generator.propose(images[0], mask_threshold=0.2)
    both = {tuple(w): a for w, a in zip(larger.windows.tolist(), larger.areas, strict=True)}
    for window, area in zip(found[0].windows.tolist(), found[0].areas, strict=True):
        assert both[tuple(window)] >= area
    assert larger.areas.sum() > found[0].areas.sum()


def test_flip_adds_the_mirrored_proposals_of_the_mirror_image(generator, images, found):
    image = images[0]  # of the size that the network sees: resizing is exact
    merged = generator.propose(image, flip=True, count=1000, candidates=100)
    of_mirror = generator.propose(np.ascontiguousarray(image[:, ::-1]))
    every = sorted([*found[0].scores, *of_mirror.scores], reverse=True)[:100]
    np.testing.assert_array_equal(merged.scores, every)
    flipped = merged[merged.mirrored]
    assert_same(merged[~merged.mirrored], found[0][: (~merged.mirrored).sum()])
    assert 10 < len(flipped) < 90
    for k, one in enumerate(flipped):
        np.testing.assert_array_equal(one.mask(0), of_mirror.mask(k)[:, ::-1])
        np.testing.assert_array_equal(one.attention_map(0), of_mirror.attention_map(k)[:, ::-1])
        np.testing.assert_array_equal(one.boxes[0], coco_mask.toBbox(one.rles[0]))


def test_another_scale_is_padded_and_padding_changes_nothing(tiny_network, images, found):
    smaller = ConfigDict({"evaluation": EVALUATION | {"long_edge": 72}})
    ours = ProposalGenerator(*tiny_network, smaller).propose(images[0], long_edge=96)  # 72 x 96 in 128 x 128
    np.testing.assert_allclose(ours.scores, found[0].scores, atol=1e-5)
    np.testing.assert_array_equal(ours.windows, found[0].windows)
    differing = (ours.masks() != found[0].masks()).mean()
    assert differing < 1e-4


def test_an_image_larger_than_every_bucket(tiny_network, images):
    small = ConfigDict({"evaluation": EVALUATION | {"buckets": ((32, 96),)}})
    lone = ProposalGenerator(*tiny_network, small)
    assert lone._bucket((72, 96), 96) == (128, 128)
    assert lone._bucket((30, 96), 96) == (32, 96)
    assert lone._bucket((30, 96), 200) == (64, 256)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"count": 0}, "count=0: at least 1 is wanted"),
        ({"score_threshold": 2.0}, "score_threshold=2.0: an objectness between 0 and 1"),
        ({"nms_iou": -0.1}, "nms_iou=-0.1: an IoU between 0 and 1"),
        ({"min_area": -1}, "min_area=-1"),
        ({"mask_threshold": 1.0}, "mask_threshold=1.0: a probability"),
        ({"candidates": 0}, "candidates=0"),
        ({"long_edge": 0}, "long_edge=0: at least 4 pixels"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": True}, "batch_size=True: a whole number"),
        ({"score_threshold": float("nan")}, "score_threshold=nan: an objectness"),
        ({"nms": 0.5}, "nms: no such option of propose; did you mean nms_iou"),
    ],
)
def test_options_out_of_range_are_refused_at_once(generator, images, wrong, line):
    with pytest.raises(ValueError, match=line):
        generator.propose_iter([images[0]], **wrong)


def test_one_image_is_not_several(generator, images):
    with pytest.raises(ValueError, match="give one to propose"):
        generator.propose_iter(images[0])
    assert generator.propose([]) == []
    with pytest.raises(ValueError, match=r"uint8\[2, 72, 96, 3\] is no image.*several images go in a list"):
        generator.propose(np.stack([images[0]] * 2))
