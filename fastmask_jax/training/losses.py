"""The three losses of FastMask, image by image (docs/network.md §2).

Letters: B images, S objectness samples, P mask samples of an image.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, UInt8

from fastmask_jax.models.heads import upscale


class LossWeights(NamedTuple):
    """Weights of the three losses; all 1 in the paper."""

    objectness: float = 1.0
    mask: float = 1.0
    attention: float = 1.0


class ImageLosses(NamedTuple):
    """Losses and metrics of each image; means over its sampled windows, 0 for an image without any."""

    objectness: Float[Array, "B"]
    mask: Float[Array, "B"]
    attention: Float[Array, "B"]
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
) -> ImageLosses:
    """Sigmoid cross-entropies: of objectness over windows, of masks over 160x160 pixels and windows, of attention over
    10x10 cells and windows. Weights are 1 for a sampled window and 0 for a row that only fills the array."""
    fine = upscale(mask_logits)  # [B, P, 160, 160]
    target = mask_targets.astype(jnp.float32)
    mask = optax.sigmoid_binary_cross_entropy(fine, target).mean((2, 3))
    cells = optax.sigmoid_binary_cross_entropy(attention, attention_targets.astype(jnp.float32)).mean((2, 3))
    right = (scores > 0) == (score_labels > 0.5)
    inside = (fine > 0).astype(jnp.float32)
    both = jnp.sum(inside * target, (2, 3))
    either = jnp.sum(jnp.maximum(inside, target), (2, 3))
    return ImageLosses(
        objectness=_mean(optax.sigmoid_binary_cross_entropy(scores, score_labels), score_weights),
        mask=_mean(mask, mask_weights),
        attention=_mean(cells, mask_weights),
        accuracy=_mean(right.astype(jnp.float32), score_weights),
        iou=_mean(both / jnp.maximum(either, 1.0), mask_weights),
    )


def _mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.sum(values * weights, 1) / jnp.maximum(jnp.sum(weights, 1), 1.0)
