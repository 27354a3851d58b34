"""Targets of objectness attention: compared with masks resized by OpenCV and with loops, and in batches."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from fastmask_jax.data.labels import label_windows
from fastmask_jax.data.objectness_targets import attended_windows, draw_objectness_targets, place_in_bucket
from fastmask_jax.data.pipeline import TrainSpec, train_batches
from fastmask_jax.data.targets import InstanceMask
from fastmask_jax.geometry import all_windows, window_grids
from fastmask_jax.training.losses import objectness_attention_loss
from tests.test_pipeline import RECORDS, make_plan
from tests.tiny import label_spec

STRIDES = (8, 12, 16, 24)
SPEC = label_spec(fit_low=0.4, fit_high=0.8, center=0.25)


def instance(pixels):
    return InstanceMask.of_rles([coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))])[0]


def ellipses(original, count, seed):
    """(boxes, masks as arrays) of random filled ellipses."""
    rng = np.random.default_rng(seed)
    boxes, masks = [], []
    for _ in range(count):
        pixels = np.zeros(original, np.uint8)
        center = tuple(int(rng.integers(0, side)) for side in original[::-1])
        cv2.ellipse(pixels, center, tuple(rng.integers(2, 45, 2).tolist()), 0, 0, 360, 1, -1)
        boxes.append(coco_mask.toBbox(coco_mask.encode(np.asfortranarray(pixels))))
        masks.append(pixels)
    return np.array(boxes).astype(np.int64).reshape(-1, 4), masks


@given(st.integers(0, 10**6), st.integers(0, 5), st.integers(30, 90), st.integers(30, 90), st.sampled_from([0.0, 0.2]))
def test_targets_are_the_union_of_fitting_masks_resized_by_opencv(seed, count, height, width, finest):
    original, resized = (height, width), (height * 2 // 4 * 4, width * 2 // 4 * 4)
    boxes, masks = ellipses(original, count, seed)
    crowd = np.random.default_rng(seed).random(count) < 0.2
    spec = label_spec(fit_low=0.4, fit_high=0.8, finest_fit_low=finest)
    got = attended_windows(boxes, crowd, [instance(m) for m in masks], original, resized, STRIDES, spec)
    want = []
    for stride, (rows, columns) in zip(STRIDES, window_grids(*resized, STRIDES), strict=True):
        union = np.zeros(original, np.uint8)
        low = finest if finest and stride == 8 else 0.4
        for box, ignored, mask in zip(boxes.tolist(), crowd, masks, strict=True):
            longest = max(box[2] * resized[1] / width, box[3] * resized[0] / height)
            if not ignored and low * 10 * stride <= longest <= 0.8 * 10 * stride:
                union |= mask
        want.append(cv2.resize(union, (columns, rows), interpolation=cv2.INTER_NEAREST).ravel())
    np.testing.assert_array_equal(got, np.concatenate(want) > 0)


@given(st.integers(0, 10**6))
def test_at_most_three_negatives_for_each_positive_of_a_level(seed):
    rng = np.random.default_rng(seed)
    resized, strides = (48, 64), (8, 16)
    count = len(all_windows(*resized, strides))
    attended = rng.random(count) < rng.choice([0.0, 0.1, 0.6])
    known = rng.random(count) < 0.7
    targets = draw_objectness_targets(attended, known, resized, strides, rng)
    levels = all_windows(*resized, strides)[:, 0]
    np.testing.assert_array_equal(targets == 1, attended)
    assert known[targets == 0].all()
    for level in range(2):
        here = levels == level
        wanted = min(3 * np.sum(attended & here), np.sum(known & ~attended & here))
        assert np.sum((targets == 0) & here) == wanted


def test_negatives_are_drawn_uniformly():
    attended = np.zeros(9 * 9, bool)
    attended[:5] = True
    rng, drawn = np.random.default_rng(0), np.zeros(81)
    for _ in range(1000):
        drawn += draw_objectness_targets(attended, np.ones(81, bool), (64, 64), (8,), rng) == 0
    expected = 1000 * 15 / 76  # standard deviation 13
    assert not drawn[:5].any() and (abs(drawn[5:] - expected) < 65).all()


def test_windows_keep_their_place_in_a_bucket():
    resized, bucket = (20, 36), (32, 40)
    windows = all_windows(*resized, STRIDES)
    numbers = (np.arange(len(windows)) % 2).astype(np.uint8)
    placed = place_in_bucket(numbers, resized, bucket, STRIDES)
    where = {tuple(w): n for n, w in enumerate(all_windows(*bucket, STRIDES).tolist())}
    assert len(placed) == len(where)
    at = [where[tuple(w)] for w in windows.tolist()]
    np.testing.assert_array_equal(placed[at], numbers)
    assert (np.delete(placed, at) == 2).all()


def test_loss_is_that_of_plain_loops():
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=(3, *grid)) * 3 for grid in ((3, 4), (2, 2))]
    targets = rng.integers(0, 3, (3, 16)).astype(np.uint8)
    targets[1, 12:] = 2  # nothing counts at the second level of the second image
    logits[0].reshape(3, -1)[targets[:, :12] == 2] = -np.inf
    want = []
    for b in range(3):
        flat = np.concatenate([level[b].ravel() for level in logits])
        loss = 0.0
        for level in (slice(0, 12), slice(12, 16)):
            entropies = []
            for logit, target in zip(flat[level], targets[b, level], strict=True):
                p = 1 / (1 + np.exp(-logit))
                if target < 2:
                    entropies.append(-np.log(p if target else 1 - p))
            loss += np.mean(entropies) if entropies else 0.0
        want.append(loss)
    logits = [jnp.asarray(level, jnp.float32) for level in logits]
    got, gradient = jax.value_and_grad(lambda x: objectness_attention_loss(x, jnp.asarray(targets)).sum())(logits)
    np.testing.assert_allclose(objectness_attention_loss(logits, jnp.asarray(targets)), want, rtol=1e-5)
    assert np.isfinite(got) and all(np.isfinite(g).all() for g in gradient)


def test_a_batch_holds_targets_and_only_windows_that_are_attended_to():
    spec = TrainSpec((8, 12, 16), (100, 112, 128), SPEC, objectness_attention=True)
    batches = train_batches(RECORDS, spec, make_plan(RECORDS), 0, workers=0, seed=3)
    for _ in range(3):
        batch = next(batches)
        every = all_windows(*batch.image.shape[1:3], spec.strides)
        place = {tuple(w): n for n, w in enumerate(every.tolist())}
        assert batch.objectness_targets.shape == (4, len(every)) and batch.objectness_targets.dtype == np.uint8
        assert (batch.mask_weights > 0).any(axis=1).all()
        for row in range(4):
            targets = batch.objectness_targets[row]
            for windows, weights in (
                (batch.score_windows[row], batch.score_weights[row]),
                (batch.mask_windows[row], batch.mask_weights[row]),
            ):
                used = [place[tuple(w)] for w in windows[weights > 0].tolist()]
                assert used and (targets[used] == 1).all()
            outside = {tuple(w) for w in every.tolist()} - {
                tuple(w) for w in all_windows(*batch.size[row].tolist(), spec.strides).tolist()
            }
            assert all(targets[place[w]] == 2 for w in outside)
    batches.close()


def test_labels_within_some_windows():
    labels = label_windows(np.array([[20, 20, 40, 40]]), np.zeros(1, bool), (90, 90), (96, 96), STRIDES, SPEC)
    chosen = np.random.default_rng(0).random(len(labels.windows)) < 0.5
    within = labels.within(chosen)
    np.testing.assert_array_equal(within.positive, labels.positive & chosen)
    np.testing.assert_array_equal(within.hard_negative, labels.hard_negative & chosen)
    np.testing.assert_array_equal(within.background, labels.background)
    np.testing.assert_array_equal(within.matched[within.positive], labels.matched[within.positive])
