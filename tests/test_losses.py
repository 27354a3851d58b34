"""The losses compared with float64 loops over windows, pixels and cells."""

from functools import partial

import jax
import numpy as np

from fastmask_jax.training.losses import LossSpec, image_losses
from tests.plain_network import sigmoid

B, S, P = 3, 5, 4


def enlarged(logits):
    """Bilinear x4: transposed convolution, kernel 8 and stride 4, two cells cut at the border (docs/network.md §1)."""
    kernel = np.array([1, 3, 5, 7, 7, 5, 3, 1]) / 8
    out = np.zeros((164, 164))
    for i in range(40):
        for j in range(40):
            out[4 * i : 4 * i + 8, 4 * j : 4 * j + 8] += logits[i, j] * np.outer(kernel, kernel)
    return out[2:-2, 2:-2]


def entropy(logit, label):
    p, label = sigmoid(np.float64(logit)), np.float64(label)
    return -label * np.log(p) - (1 - label) * np.log(1 - p)


def example(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "scores": rng.normal(size=(B, S)).astype(np.float32) * 3,
        "mask_logits": rng.normal(size=(B, P, 40, 40)).astype(np.float32) * 3,
        "attention": rng.normal(size=(B, P, 10, 10)).astype(np.float32) * 3,
        "score_labels": rng.integers(0, 2, (B, S)).astype(np.float32),
        "score_weights": np.array([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], np.float32),
        "mask_targets": rng.integers(0, 2, (B, P, 160, 160)).astype(np.uint8),
        "attention_targets": rng.integers(0, 2, (B, P, 10, 10)).astype(np.uint8),
        "mask_weights": np.array([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], np.float32),
    }


def test_losses_are_those_of_plain_loops():
    given = example()
    got = jax.jit(partial(image_losses, spec=LossSpec()))(**given)
    for b in range(B):
        want = {name: [] for name in got._fields}
        for k in np.flatnonzero(given["score_weights"][b]):
            logit, label = given["scores"][b, k], given["score_labels"][b, k]
            want["objectness"].append(entropy(logit, label))
            want["accuracy"].append((sigmoid(logit) > 0.5) == label)
        for k in np.flatnonzero(given["mask_weights"][b]):
            fine, target = enlarged(given["mask_logits"][b, k].astype(np.float64)), given["mask_targets"][b, k]
            want["mask"].append(np.mean(entropy(fine, target)))
            want["attention"].append(np.mean(entropy(given["attention"][b, k], given["attention_targets"][b, k])))
            inside = sigmoid(fine) > 0.5
            soft = sigmoid(fine)
            want["dice"].append(1 - (2 * np.sum(soft * target) + 1) / (np.sum(soft) + np.sum(target) + 1))
            want["iou"].append(np.sum(inside & (target == 1)) / np.sum(inside | (target == 1)))
        for name, values in want.items():
            np.testing.assert_allclose(
                getattr(got, name)[b], np.mean(values) if values else 0, rtol=2e-6, err_msg=f"{name} of image {b}"
            )


def test_rows_without_weight_change_nothing():
    given, other = example(), example(seed=1)
    changed = dict(given)
    for name in ("scores", "score_labels"):
        changed[name] = np.where(given["score_weights"] > 0, given[name], other[name])
    for name in ("mask_logits", "mask_targets", "attention", "attention_targets"):
        weights = given["mask_weights"].reshape(B, P, 1, 1)
        changed[name] = np.where(weights > 0, given[name], other[name])
    run = jax.jit(partial(image_losses, spec=LossSpec()))
    jax.tree.map(np.testing.assert_array_equal, run(**given), run(**changed))


def test_perfect_and_huge_logits_stay_finite():
    given = example() | {"scores": np.full((B, S), 1e4, np.float32), "score_labels": np.ones((B, S), np.float32)}
    given["mask_logits"] = np.full((B, P, 40, 40), -1e4, np.float32)
    given["mask_targets"] = np.zeros_like(given["mask_targets"])
    got = jax.jit(partial(image_losses, spec=LossSpec()))(**given)
    np.testing.assert_allclose(got.objectness, 0, atol=1e-6)
    np.testing.assert_allclose(got.mask, 0, atol=1e-6)
    np.testing.assert_array_equal(got.iou, 0)  # nothing to find and nothing found divides by no zero


def test_score_learns_the_iou_of_its_mask():
    """Rows of scores and masks are the same windows; no gradients flow through the targets into the masks."""
    given = example() | {"score_labels": np.tile(np.array([1, 1, 0, 0, 0], np.float32), (B, 1))}
    spec = LossSpec(score_target="iou")
    got = jax.jit(partial(image_losses, spec=spec))(**given)
    for b in range(2):
        values = []
        for k in np.flatnonzero(given["score_weights"][b]):
            fine = enlarged(given["mask_logits"][b, k].astype(np.float64)) > 0 if k < 2 else None
            target = given["mask_targets"][b, k] == 1 if k < 2 else None
            iou = np.sum(fine & target) / np.sum(fine | target) if k < 2 else 0.0
            values.append(entropy(given["scores"][b, k], iou))
        np.testing.assert_allclose(got.objectness[b], np.mean(values), rtol=1e-5)

    def objectness(logits):
        arrays = jax.tree.map(jax.numpy.asarray, given) | {"mask_logits": logits}
        return image_losses(**arrays, spec=spec).objectness.sum()

    assert not np.any(jax.jit(jax.grad(objectness))(given["mask_logits"]))


def test_hardest_negatives_and_focal_weights_by_hand():
    scores = np.array([[2.0, -1.0, 3.0, 0.5, -4.0]], np.float32)
    given = {name: value[:1] for name, value in example().items()} | {
        "scores": scores,
        "score_labels": np.array([[1, 0, 0, 0, 0]], np.float32),
        "score_weights": np.array([[1, 1, 0, 1, 1]], np.float32),  # the row of score 3 is padding
    }
    got = jax.jit(partial(image_losses, spec=LossSpec(hardest_negatives=2)))(**given).objectness
    np.testing.assert_allclose(got, [np.mean([entropy(2.0, 1), entropy(-1.0, 0), entropy(0.5, 0)])], rtol=1e-5)
    got = jax.jit(partial(image_losses, spec=LossSpec(focal=2.0)))(**given).objectness
    terms = [
        abs(label - sigmoid(s)) ** 2 * entropy(s, label) for s, label in ((2.0, 1), (-1.0, 0), (0.5, 0), (-4.0, 0))
    ]
    np.testing.assert_allclose(got, [sum(terms)], rtol=1e-5)  # over one positive window
