"""The proposal generator: compared with direct calls of network and pasting, in threads, and with every option."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from pycocotools import mask as coco_mask

from fastmask_jax.geometry import resized_size
from fastmask_jax.inference import batching, device_model
from fastmask_jax.inference import generator as generator_module
from fastmask_jax.inference.generator import ProposalGenerator
from fastmask_jax.inference.options import ProposeOptions
from fastmask_jax.masks.paste import paste
from fastmask_jax.masks.rle import masks_to_results
from tests.tiny import compilations

SIZES = [(72, 96), (96, 72), (144, 192), (48, 64), (71, 95)]
EVALUATION = {
    "long_edges": (96,),
    "buckets": ((72, 96), (96, 72)),
    "batch_size": 1,
    "proposals": 100,
    "mask_threshold": 0.4,
    "stability_weight": 0.0,
    "extra_thresholds": (),
    "rerank_iou": 1.0,
    "exif": "ignore",
    "tile": "off",
    "tile_overlap": 0.25,
    "max_pixels": 10**6,
    "precision": "float32",
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
    """The proposals of each image by itself."""
    return [generator.propose(image) for image in images]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for name in ("scores", "boxes", "windows", "long_edges", "window_boxes", "attention", "image", "mirrored"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    assert ours.rles == theirs.rles


def test_proposals_are_those_of_the_network_pasted_alone(tiny_network, images, found):
    """Each image without padding, in a batch of its own, and pasted directly."""
    model, variables = tiny_network
    propose = jax.jit(lambda image, size: model.apply(variables, image, size, 100, method="propose"))
    for image, ours in zip(images, found, strict=True):
        resized = resized_size(*image.shape[:2], 96)
        pixels = cv2.resize(image.astype(np.float32), resized[::-1])
        scores, windows, logits, attention = (
            np.asarray(part[0]) for part in propose(pixels[None], np.array([resized]))
        )
        want = masks_to_results(
            scores,
            windows,
            logits,
            strides=model.strides,
            resized=resized,
            original=image.shape[:2],
            threshold=EVALUATION["mask_threshold"],
        )
        assert len(ours) > 50 and np.ptp(ours.scores) > 0.1
        np.testing.assert_allclose(ours.scores, want.scores, atol=1e-5)
        np.testing.assert_array_equal(ours.windows, windows[want.kept])
        np.testing.assert_allclose(ours.attention, attention[want.kept], atol=1e-5)
        same = [rle == other for rle, other in zip(ours.rles, want.segmentations, strict=True)]
        assert np.mean(same) > 0.9  # pixels at the threshold may differ


def test_a_list_in_any_order_and_batch_gives_what_each_image_gives(generator, images, found):
    order = [3, 0, 4, 4, 1, 2, 0, 1]
    for ours, number in zip(generator.propose([images[n] for n in order]), order, strict=True):
        assert_same(ours, found[number])
    assert generator.propose([]) == []


def test_the_order_is_that_of_the_images_and_little_is_read_ahead(generator, images, found, monkeypatch):
    monkeypatch.setattr(batching, "AHEAD", 1)
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
        assert taken - given <= rows + 2 * generator_module.THREADS + 2
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
    assert "float64[4, 4] is not an image: expected uint8" in lines[2]
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg: no such image"):
        generator.propose(several)


def test_threads_get_what_one_gets_and_compile_once(tiny_network, images, found):
    shared = make(tiny_network)
    jax.clear_caches()
    one = {"strides": (16,), "resized": (32, 32), "original": (32, 32), "threshold": 0.5}
    paste(np.zeros((1, 3), int), np.ones((1, 40, 40)), **one)  # compiles what all pasting uses
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
    compile_ = jax.stages.Lowered.compile
    monkeypatch.setattr(device_model, "QUIET_SECONDS", 0.01)
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda lowered: (said.wait(60), compile_(lowered))[1])
    pausing.propose(images[0])
    pausing.propose(images[0])
    assert len(lines) == 1
    assert lines[0].startswith("compiling for 72 x 96 images ... once; ")


def test_what_is_traced_slowly_and_not_compiled_is_not_called_compiling(tiny_network, images, monkeypatch):
    """On a slow machine, tracing takes seconds before the program is read from the cache."""
    lines, first = [], make(tiny_network)
    first.propose(images[0])
    (program,) = first._model._programs.values()
    monkeypatch.setattr(device_model, "QUIET_SECONDS", 0.01)
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda lowered: (time.sleep(0.05), program)[1])
    cached = make(tiny_network, report=lines.append)
    cached.propose(images[0])
    assert not lines


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
    smaller = ConfigDict({"evaluation": EVALUATION | {"long_edges": (72,)}})
    ours = ProposalGenerator(*tiny_network, smaller).propose(images[0], long_edges=96)  # 72 x 96 in 96 x 128
    np.testing.assert_allclose(ours.scores, found[0].scores, atol=1e-5)
    np.testing.assert_array_equal(ours.windows, found[0].windows)
    differing = (ours.masks() != found[0].masks()).mean()
    assert differing < 1e-4


def test_scales_are_merged(generator, images, found):
    """The proposals of two scales are the union of those of each, best first."""
    of_small = generator.propose(images[0], long_edges=72)
    both = generator.propose(images[0], long_edges=(72, 96), count=1000, candidates=100)
    every = sorted([*found[0].scores, *of_small.scores], reverse=True)[:100]
    np.testing.assert_array_equal(both.scores, every)
    for edge, alone in ((72, of_small), (96, found[0])):
        part = both[both.long_edges == edge]
        assert 10 < len(part) < 90
        assert_same(part, alone[: len(part)])
    batched = generator.propose([images[0], images[2], images[1]], long_edges=(72, 96), count=1000, candidates=100)
    assert_same(batched[0], both)
    assert_same(batched[2], generator.propose(images[1], long_edges=(72, 96), count=1000, candidates=100))


def test_other_weights_share_the_compiled_programs(tiny_network, generator, images, found):
    model, variables = tiny_network
    scaled = jax.tree.map(lambda x: 1.1 * x, variables)
    with compilations() as compiled:
        ours = generator.with_variables(scaled).propose(images[0])
    assert not compiled
    assert_same(ours, make((model, scaled)).propose(images[0]))
    assert_same(generator.propose(images[0]), found[0])


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"count": 0}, "count=0: expected an integer from 1 to 100000; the nearest is 1"),
        ({"score_threshold": 2.0}, "score_threshold=2.0: expected an objectness between 0 and 1"),
        ({"nms_iou": -0.1}, "nms_iou=-0.1: expected an IoU between 0 and 1"),
        ({"min_area": -1}, "min_area=-1"),
        ({"mask_threshold": 1.0}, "mask_threshold=1.0: expected a number above 0 and below 1"),
        ({"candidates": 0}, "candidates=0"),
        ({"long_edges": 0}, r"long_edges\[0\]=0: expected an integer from 4 to 8192; the nearest is 4"),
        ({"long_edges": (96, True)}, r"long_edges\[1\]=True: expected an integer"),
        ({"long_edges": ()}, r"long_edges=\(\): expected a tuple of at least 1"),
        ({"rerank_iou": 1.5}, "rerank_iou=1.5: expected a number from 0 to 1; the nearest is 1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 10**9}, "batch_size=1000000000: expected an integer from 1 to 256; the nearest is 256"),
        ({"count": 10**9}, "the nearest is 100000"),
        ({"batch_size": True}, "batch_size=True: expected an integer"),
        ({"score_threshold": float("nan")}, "score_threshold=nan: expected an objectness"),
        ({"nms": 0.5}, "nms: no such option of propose; did you mean nms_iou"),
    ],
)
def test_options_out_of_range_are_refused_at_once(generator, images, wrong, line):
    with pytest.raises(ValueError, match=line):
        generator.propose_iter([images[0]], **wrong)


def test_one_image_is_not_several(generator, images):
    with pytest.raises(ValueError, match="pass one to propose"):
        generator.propose_iter(images[0])
    assert generator.propose([]) == []
    with pytest.raises(ValueError, match=r"uint8\[2, 72, 96, 3\] is not an image.*several images as a list"):
        generator.propose(np.stack([images[0]] * 2))


@pytest.mark.parametrize("tile", [192, 500, "auto"])
def test_tiles_as_large_as_the_image_change_nothing(generator, images, found, tile):
    for image, alone in zip(generator.propose(images, tile=tile), found, strict=True):
        assert_same(image, alone)


def test_tiles_propose_what_their_pixels_propose_alone(generator, images):
    """Masks of a tile are unchanged if no edge cuts them and their IoU with all others is at most .7."""
    image = images[2]  # 144 x 192
    ours = generator.propose(image, tile=100, tile_overlap=20, count=10_000, candidates=100)
    alone = [generator.propose(image, count=100)]
    corners = [(0, 0), (0, 92), (44, 0), (44, 92)]
    alone += [generator.propose(image[y : y + 100, x : x + 100], count=100) for y, x in corners]
    assert ours.empty == sum(part.empty for part in alone)
    known = set()
    for part, (y, x) in zip(alone, [(0, 0), *corners], strict=True):
        for k in range(len(part)):
            mask = np.zeros(image.shape[:2], bool)
            mask[y : y + part.image_size[0], x : x + part.image_size[1]] = part.mask(k)
            known.add((mask.tobytes(), part.scores[k]))
    got = {(ours.mask(k).tobytes(), ours.scores[k]) for k in range(len(ours))}
    assert len(got & known) > 20 and len(got) == len(ours)
    assert (np.diff(ours.scores) <= 0).all() and len(ours) == 100
    np.testing.assert_array_equal(ours.boxes, [coco_mask.toBbox(rle) for rle in ours.rles])
    assert (ours.image == image).all()


def test_images_in_tiles_stay_in_order_among_others(generator, images, found):
    options = {"tile": 100, "tile_overlap": 20}
    alone = generator.propose(images[2], **options)
    several = generator.propose([images[0], images[2], images[3], images[2]], **options)
    for ours, want in zip(several, [found[0], alone, found[3], alone], strict=True):
        assert_same(ours, want)


def test_tiles_are_mirrored_too(generator, images):
    ours = generator.propose(images[2], tile=100, tile_overlap=20, flip=True, count=10_000, candidates=100)
    flipped = ours[ours.mirrored]
    assert 10 < len(flipped) < 90
    x1, y1, x2, y2 = flipped.window_boxes.T
    assert (x2 - x1 < 192).any()
    for k in range(len(flipped)):  # masks lie in their windows, but for those that were joined
        x, y, width, height = flipped.boxes[k]
        if width < 90 and height < 90:
            assert x1[k] <= x and y1[k] <= y and x + width <= x2[k] and y + height <= y2[k]
