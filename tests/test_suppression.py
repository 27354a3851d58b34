"""Suppression by mask IoU, compared with a plain loop over bitmaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from fastmask_jax.masks.rle import ScoredMasks
from fastmask_jax.masks.suppression import reranked_scores, suppress


def proposals_of(bitmaps: np.ndarray, scores: np.ndarray) -> ScoredMasks:
    rles = [coco_mask.encode(np.asfortranarray(bitmap.astype(np.uint8))) for bitmap in bitmaps]
    boxes = np.array([coco_mask.toBbox(rle) for rle in rles], np.float32).reshape(-1, 4)
    segmentations = [{"size": list(bitmaps.shape[1:]), "counts": rle["counts"].decode()} for rle in rles]
    return ScoredMasks(scores.astype(np.float32), boxes, segmentations, np.arange(len(scores)), 0)


def plain_loop(bitmaps: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    kept: list[int] = []
    for n in sorted(range(len(scores)), key=lambda n: (-scores[n], n)):
        for m in kept:
            if (bitmaps[n] & bitmaps[m]).sum() / (bitmaps[n] | bitmaps[m]).sum() > threshold:
                break
        else:
            kept.append(n)
    return kept


def blobs(rng: np.random.Generator, count: int, height: int = 24, width: int = 30) -> np.ndarray:
    """Returns nonempty rectangles with holes around a few places."""
    centers = rng.uniform(0, 1, (3, 2)) * (height, width)
    y, x = np.indices((height, width))
    result = np.zeros((count, height, width), bool)
    for bitmap in result:
        cy, cx = centers[rng.integers(3)] + rng.normal(0, 2, 2)
        ry, rx = rng.uniform(2, 9, 2)
        bitmap[:] = (abs(y - cy) <= ry) & (abs(x - cx) <= rx) & (rng.random((height, width)) > 0.1)
        bitmap[rng.integers(height), rng.integers(width)] = True
    return result


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
@settings(max_examples=60, deadline=None)
def test_equal_to_a_plain_loop(seed, count, threshold):
    rng = np.random.default_rng(seed)
    bitmaps = blobs(rng, count)
    scores = rng.integers(0, 8, count) / 8  # ties, in no order
    assert suppress(proposals_of(bitmaps, scores), threshold).tolist() == plain_loop(bitmaps, scores, threshold)


def test_an_iou_at_the_threshold_stays():
    bitmaps = np.zeros((2, 4, 4), bool)
    bitmaps[0, :2], bitmaps[1, :1] = True, True  # 4 of 8 pixels
    two = proposals_of(bitmaps, np.array([0.9, 0.8]))
    assert suppress(two, 0.5).tolist() == [0, 1]
    assert suppress(two, 0.49).tolist() == [0]


def test_many_equal_masks_leave_one():
    bitmaps = np.ones((700, 8, 8), bool)
    assert suppress(proposals_of(bitmaps, np.linspace(0, 1, 700)), 0.5).tolist() == [699]


def test_a_threshold_that_is_no_iou_is_refused():
    with pytest.raises(ValueError, match="iou_threshold=50"):
        suppress(proposals_of(np.ones((1, 2, 2), bool), np.ones(1)), 50.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]))
def test_reranked_scores_lower_the_odds_of_near_duplicates(seed, threshold):
    rng = np.random.default_rng(seed)
    bitmaps = blobs(rng, 12)
    scores = rng.permutation(np.linspace(0.05, 0.95, 12)).astype(np.float32)
    reranked = reranked_scores(proposals_of(bitmaps, scores), threshold)
    kept = plain_loop(bitmaps, scores, threshold)
    for n, (old, new) in enumerate(zip(scores.astype(float), reranked.astype(float), strict=True)):
        if n in kept:
            assert new == old
        else:
            assert new / (1 - new) == pytest.approx(0.2 * old / (1 - old), rel=1e-5)
