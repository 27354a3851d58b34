"""How `propose` ranks: reranking, extra thresholds and stability, compared with plain loops."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tests import test_generator
from tests.test_generator import assert_same, plain_filter

generator, images, found = test_generator.generator, test_generator.images, test_generator.found  # fixtures


def test_reranking_is_that_of_a_plain_loop(generator, images, found):
    """The odds of duplicates of better proposals are a fifth, and no proposal is lost."""
    bitmaps = [coco_mask.decode(rle).astype(bool) for rle in found[0].rles]
    kept = plain_filter(bitmaps, found[0].scores, 100, 0.0, 0.5, 0)
    assert 5 < len(kept) < len(bitmaps) - 5
    odds = found[0].scores.astype(np.float64) / (1 - found[0].scores)
    odds[[n for n in range(len(bitmaps)) if n not in kept]] *= 0.2
    order = np.argsort(-odds, kind="stable")
    ours = generator.propose(images[0], rerank_iou=0.5, candidates=100)
    np.testing.assert_allclose(ours.scores, (odds / (1 + odds))[order], rtol=1e-5)
    assert_same(replace(ours, scores=found[0].scores), replace(found[0][order], scores=found[0].scores))


def test_extra_thresholds_add_the_masks_of_other_thresholds(generator, images, found):
    """A threshold counts once, also that of the masks themselves (0.4)."""
    ours = generator.propose(images[0], extra_thresholds=(0.1, 0.6, 0.4, 0.6), count=1000, candidates=100)
    masks = len(found[0])
    want = {
        (tuple(w), rle["counts"]): s for w, rle, s in zip(found[0].windows, found[0].rles, found[0].scores, strict=True)
    }
    for threshold in (0.1, 0.6):
        alone = generator.propose(images[0], mask_threshold=threshold, count=100)
        masks += len(alone)
        for window, rle, score in zip(alone.windows, alone.rles, alone.scores.astype(np.float64), strict=True):
            odds = 0.15 * score / (1 - score)
            want.setdefault((tuple(window), rle["counts"]), odds / (1 + odds))
    got = dict.fromkeys(want, 0.0)
    for window, rle, score in zip(ours.windows, ours.rles, ours.scores, strict=True):
        key = (tuple(window), rle["counts"])
        got[key] = max(got[key], score)
    assert len(ours) == masks and ours.empty == found[0].empty
    assert len(want) > 150 and got == pytest.approx(want, rel=1e-5)
    assert (np.diff(ours.scores) <= 0).all()


def test_suppression_and_tiles_go_without_extra_thresholds(generator, images):
    for option in ({"nms_iou": 0.9}, {"tile": 64}):
        with_extra = generator.propose(images[0], extra_thresholds=(0.1,), count=1000, candidates=50, **option)
        assert_same(with_extra, generator.propose(images[0], count=1000, candidates=50, **option))


@pytest.mark.parametrize("threshold", [0.3, 0.6])
def test_few_proposals_are_the_first_of_many(generator, images, threshold):
    """Masks that cannot be among the best are not pasted; that changes nothing."""
    options = {"rerank_iou": 0.5, "extra_thresholds": (0.2, 0.7), "stability_weight": 1.0, "candidates": 100}
    many = generator.propose(images[0], count=1000, mask_threshold=threshold, **options)
    for count in (1, 7, 30, 60, 99):
        few = generator.propose(images[0], count=count, mask_threshold=threshold, **options)
        assert_same(few, many[:count])


def test_stability_lowers_the_scores_of_vague_masks(tiny_network, generator, images, found):
    ours = generator.propose(images[0], stability_weight=1.5, candidates=100)
    model, variables = tiny_network
    propose = jax.jit(lambda image, size: model.apply(variables, image, size, 100, method="propose"))
    decoded = propose(images[0][None].astype(np.float32), np.array([images[0].shape[:2]]))
    probabilities = 1 / (1 + np.exp(-np.asarray(decoded.mask_logits[0], np.float64)))
    want = {}
    for window, score, mask in zip(
        np.asarray(decoded.windows[0]), np.asarray(decoded.scores[0], np.float64), probabilities, strict=True
    ):
        if score < 0:
            continue
        share = ((mask >= 0.6).sum() + 1) / ((mask >= 0.2).sum() + 1)
        odds = score / (1 - score) * share**1.5
        want[tuple(window.tolist())] = odds / (1 + odds)
    assert len(ours) > 50 and (np.diff(ours.scores) <= 0).all()
    assert ours.windows.tolist() != found[0].windows.tolist()
    for window, score in zip(ours.windows.tolist(), ours.scores, strict=True):
        assert score == pytest.approx(want[tuple(window)], rel=1e-2)  # cells at a threshold may differ
