"""The losses of FastMask, per image (docs/network.md §2).

Letters: B images, S objectness samples, P mask samples per image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, UInt8

from fastmask_jax.models.heads import upscale


class LossSpec(NamedTuple):
    """Weights of the losses, and the objectness target (docs/configuration.md)."""

    objectness: float = 1.0
    mask: float = 1.0
    attention: float = 1.0
    dice: float = 0.0
    score_target: str = "label"  # of positive windows: "label", 1; "iou", the IoU of the window's own mask
    hardest_negatives: int = 0  # use only this many negatives per image, those with the highest scores; 0: all
    focal: float = 0.0  # exponent of |target − probability|, the weight of a window; 0: equal weights
    objectness_attention: float = 0.25  # weight for each level; no effect without objectness attention


class ImageLosses(NamedTuple):
    """Losses and metrics of each image; means over its sampled windows, 0 without windows."""

    objectness: Float[Array, "B"]
    mask: Float[Array, "B"]
    attention: Float[Array, "B"]
    dice: Float[Array, "B"]
    accuracy: Float[Array, "B"]  # of objectness at probability 0.5
    iou: Float[Array, "B"]  # of masks at probability 0.5, within their windows


def image_losses(
    scores: Float[Array, "B S"],
    mask_logits: Float[Array, "B P 40 40"],
    attention: Float[Array, "B P 10 10"],
    score_labels: Float[Array, "B S"],
    score_weights: Float[Array, "B S"],
    mask_targets: UInt8[Array, "B P 160 160"],
    attention_targets: UInt8[Array, "B P 10 10"],
    mask_weights: Float[Array, "B P"],
    spec: LossSpec,
) -> ImageLosses:
    """Computes the losses of each image.

    Sigmoid cross-entropies of objectness over windows, of masks over 160x160 pixels and windows, and of attention over
    10x10 cells and windows; and the Dice loss of masks. Weights are 1 for sampled windows and 0 for padding rows. The
    first rows of scores and masks are the same windows (see `data.labels.WindowSample`).
    """
    fine = upscale(mask_logits)  # [B, P, 160, 160]
    target = mask_targets.astype(jnp.float32)
    mask = optax.sigmoid_binary_cross_entropy(fine, target).mean((2, 3))
    cells = optax.sigmoid_binary_cross_entropy(attention, attention_targets.astype(jnp.float32)).mean((2, 3))
    right = (scores > 0) == (score_labels > 0.5)
    inside = (fine > 0).astype(jnp.float32)
    both = jnp.sum(inside * target, (2, 3))
    either = jnp.sum(jnp.maximum(inside, target), (2, 3))
    iou = both / jnp.maximum(either, 1.0)
    target_scores = score_labels * _first_rows(iou, scores.shape[1]) if spec.score_target == "iou" else score_labels
    counted = score_weights * _hardest(scores, score_labels, score_weights, spec.hardest_negatives)
    probability = jax.nn.sigmoid(fine)
    overlap = 2 * jnp.sum(probability * target, (2, 3)) + 1
    dice = 1 - overlap / (jnp.sum(probability, (2, 3)) + jnp.sum(target, (2, 3)) + 1)
    return ImageLosses(
        objectness=_objectness(scores, target_scores, score_labels, counted, spec.focal),
        mask=_mean(mask, mask_weights),
        attention=_mean(cells, mask_weights),
        dice=_mean(dice, mask_weights),
        accuracy=_mean(right.astype(jnp.float32), score_weights),
        iou=_mean(iou, mask_weights),
    )


def objectness_attention_loss(
    logits: Sequence[Float[Array, "B _rows _columns"]], targets: UInt8[Array, "B M"]
) -> Float[Array, "B"]:
    """Computes the cross-entropy of the objectness attention (docs/network.md §5).

    The mean over the windows of each level that count, summed over levels.

    Args:
      logits: logits of every window of the levels.
      targets: targets of the same windows, level by level: 1 object, 0 none, 2 ignored.
    """
    losses, start = [], 0
    for level in logits:
        flat = level.reshape(level.shape[0], -1)
        target = targets[:, start : start + flat.shape[1]]
        counted = (target < 2).astype(jnp.float32)
        flat = jnp.where(target < 2, flat, 0.0)  # removes −inf of windows outside the image's grid
        losses.append(_mean(optax.sigmoid_binary_cross_entropy(flat, (target == 1).astype(jnp.float32)), counted))
        start += flat.shape[1]
    return sum(losses)


def _objectness(
    scores: jax.Array, targets: jax.Array, labels: jax.Array, weights: jax.Array, focal: float
) -> Float[Array, "B"]:
    """Computes the mean cross-entropy of windows.

    With `focal`, most windows have weights near 0, so the sum is divided by the number of positive windows instead (Li
    et al., "Generalized Focal Loss", NeurIPS 2020).
    """
    entropy = optax.sigmoid_binary_cross_entropy(scores, targets)
    if not focal:
        return _mean(entropy, weights)
    entropy *= jnp.abs(targets - jax.nn.sigmoid(scores)) ** focal
    return jnp.sum(entropy * weights, 1) / jnp.maximum(jnp.sum(labels * weights, 1), 1.0)


def _hardest(scores: jax.Array, labels: jax.Array, weights: jax.Array, count: int) -> Float[Array, "B S"]:
    """Returns 1 for positives and the `count` highest-scoring negatives of each image; 1 for all if `count` is 0."""
    if not count:
        return jnp.ones_like(scores)
    negative = (labels < 0.5) & (weights > 0)
    ranked = jax.lax.stop_gradient(jnp.where(negative, scores, -jnp.inf))
    least = jax.lax.top_k(ranked, min(count, scores.shape[1]))[0][:, -1:]
    return (~negative | (ranked >= least)).astype(jnp.float32)


def _first_rows(iou: Float[Array, "B P"], rows: int) -> Float[Array, "B S"]:
    """Returns the IoU of the first windows' masks as targets; later rows are not positive."""
    return jnp.pad(jax.lax.stop_gradient(iou), ((0, 0), (0, max(rows - iou.shape[1], 0))))[:, :rows]


def _mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.sum(values * weights, 1) / jnp.maximum(jnp.sum(weights, 1), 1.0)
