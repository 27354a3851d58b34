"""Pieces, counterparts and duplicates of masks of overlapping parts, compared with plain loops over bitmaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from fastmask_jax.masks import seams

SIZE = 20, 30


def rle_of(mask):
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def masks_of(bitmaps, scores, cut, seen=(0, 0, SIZE[1], SIZE[0])):
    rles = [rle_of(bitmap) for bitmap in bitmaps]
    boxes = np.array([coco_mask.toBbox(rle) for rle in rles]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes, scores = boxes.astype(np.float32), np.asarray(scores, np.float32)
    return seams.Masks(rles, boxes, scores, np.asarray(cut, bool), np.tile(seen, (len(rles), 1)))


def random_part(rng, box):
    """Returns bitmaps of overlapping rectangles in a box, scores of few values, and cut flags."""
    count = rng.integers(0, 12)
    bitmaps = np.zeros((count, *SIZE), bool)
    x1, y1, x2, y2 = box
    for bitmap in bitmaps:
        y, x = rng.choice([(3, 6), (8, 14), (12, 22)]) + rng.integers(-1, 2, 2)
        bitmap[max(y - rng.integers(1, 6), y1) : min(y + 6, y2), max(x - rng.integers(1, 9), x1) : min(x + 9, x2)] = 1
        if not bitmap.any():
            bitmap[y1, x1] = True
    return bitmaps, rng.integers(1, 7, count) / 8, rng.random(count) < 0.5


def iou(a, b, box=(0, 0, SIZE[1], SIZE[0])):
    x1, y1, x2, y2 = box
    a, b = a[y1:y2, x1:x2], b[y1:y2, x1:x2]
    return (a & b).sum() / max((a | b).sum(), 1)


LEFT, RIGHT, SHARED = (0, 0, 18, 20), (10, 0, 30, 20), (10, 0, 18, 20)
seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.sampled_from([0.2, 0.5, 0.7]), st.sampled_from([None, SHARED, (3, 4, 20, 9)]))
@settings(max_examples=30, deadline=None)
def test_overlapping_pairs_are_those_of_all(seed, threshold, box):
    rng = np.random.default_rng(seed)
    (first, *rest), (second, *others) = random_part(rng, LEFT), random_part(rng, RIGHT)
    pairs = seams.overlapping(masks_of(first, *rest), masks_of(second, *others), threshold, box)
    want = {
        (n, m): iou(a, b, box or (0, 0, 30, 20))
        for n, a in enumerate(first)
        for m, b in enumerate(second)
        if iou(a, b, box or (0, 0, 30, 20)) > threshold
    }
    assert {(n, m): i for n, m, i in zip(*map(np.ndarray.tolist, pairs), strict=True)} == pytest.approx(want)
    assert (np.diff(pairs.iou) <= 0).all()


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_pieces_are_those_of_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    (first, scores, cut), (second, others, whole_cut) = random_part(rng, LEFT), random_part(rng, RIGHT)
    found = seams.pieces_of(masks_of(first, scores, cut, LEFT), masks_of(second, others, whole_cut))
    want = {}
    for n, piece in enumerate(first):
        for m, whole in enumerate(second):
            beyond = whole[:, 18:].any()
            agrees = iou(piece, whole, LEFT) > seams.AGREE
            if cut[n] and not whole_cut[m] and beyond and agrees and others[m] >= seams.SURE * scores[n]:
                want.setdefault(n, set()).add(m)
    assert {n for n, _ in found.tolist()} == set(want)
    assert len(found) == len(want)
    for n, m in found.tolist():
        assert m in want[n] and iou(first[n], second[m], LEFT) == max(iou(first[n], second[k], LEFT) for k in want[n])


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_counterparts_are_the_best_first_each_once(seed):
    rng = np.random.default_rng(seed)
    (first, scores, cut), (second, others, also_cut) = random_part(rng, LEFT), random_part(rng, RIGHT)
    found = seams.counterparts(masks_of(first, scores, cut, LEFT), masks_of(second, others, also_cut, RIGHT)).tolist()
    agreement = {
        (n, m): iou(first[n], second[m], SHARED)
        for n in range(len(first))
        for m in range(len(second))
        if cut[n] and also_cut[m] and iou(first[n], second[m], SHARED) > seams.AGREE
    }
    assert len({n for n, _ in found}) == len({m for _, m in found}) == len(found)
    for (n, m), value in agreement.items():  # no pair is skipped for a worse one
        rivals = [agreement[a, b] for a, b in found if a == n or b == m]
        assert rivals and max(rivals) >= value


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_of_duplicates_the_better_stays(seed):
    rng = np.random.default_rng(seed)
    parts = random_part(rng, LEFT), random_part(rng, RIGHT)
    bitmaps = [*parts[0][0], *parts[1][0]]
    scores = np.concatenate([parts[0][1], parts[1][1]])
    owner = np.repeat([0, 1], [len(parts[0][0]), len(parts[1][0])])
    kept = []
    for n in sorted(range(len(bitmaps)), key=lambda n: (-scores[n], n)):
        if all(owner[m] == owner[n] or iou(bitmaps[m], bitmaps[n]) <= seams.SAME for m in kept):
            kept.append(n)
    stays = np.concatenate(seams.distinct(masks_of(*parts[0]), masks_of(*parts[1])))
    assert np.flatnonzero(stays).tolist() == sorted(kept)


def test_edges_of_a_part():
    boxes = np.array([[10, 0, 12, 4], [11, 5, 17, 6], [12, 5, 18, 20]], np.float32)
    flags = seams.edge_flags(boxes, SHARED, SIZE, 1)
    assert flags.tolist() == [[True, False, False, False], [False] * 4, [False, False, True, False]]


def test_a_union_has_the_pixels_of_both():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, *SIZE)) < 0.4
    assert seams.union(rle_of(first), rle_of(second)) == rle_of(first | second)
