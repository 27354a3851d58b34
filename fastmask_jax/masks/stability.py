"""Adjusts scores by the certainty of a mask's outline."""

import numpy as np
from jaxtyping import Float, Float32

from fastmask_jax.masks.odds import scaled_odds

CERTAIN, POSSIBLE = 0.6, 0.2  # probabilities


def stability(mask_logits: Float[np.ndarray, "K 40 40"]) -> Float32[np.ndarray, "K"]:
    """Returns the number of cells with probability ≥ 0.6 divided by that of cells with ≥ 0.2, for each mask.

    Adds one cell to both counts, so that an empty mask is stable.
    """
    certain, possible = (np.count_nonzero(mask_logits >= np.log(p / (1 - p)), axis=(1, 2)) for p in (CERTAIN, POSSIBLE))
    return ((certain + 1) / (possible + 1)).astype(np.float32)


def stable_scores(
    scores: Float32[np.ndarray, "K"], mask_logits: Float[np.ndarray, "K 40 40"], weight: float
) -> Float32[np.ndarray, "K"]:
    """Lowers the scores of unstable masks: multiplies the odds of each score by `stability` ** `weight`.

    Args:
      scores: objectness probabilities; negative ones, which mark windows that do not exist, are unchanged.
      mask_logits: mask logits of the windows.
      weight: 0 changes nothing.
    """
    return scaled_odds(scores, stability(mask_logits) ** np.float32(weight))
