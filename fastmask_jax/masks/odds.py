"""Multiplies the odds of scores by factors; the results remain probabilities."""

import numpy as np
from jaxtyping import Float, Float32

# Chosen on 95 images of the bundled network's training split, not on those of docs/results.md.
DUPLICATE = 0.2  # of a mask much like one of a higher score
EXTRA = 0.15  # of a window's masks at further thresholds


def scaled_odds(
    scores: Float[np.ndarray, "K"], factor: Float[np.ndarray, "K"] | np.float32 | float
) -> Float32[np.ndarray, "K"]:
    """Multiplies the odds p / (1 − p) of scores by one factor, or by one factor for each, above 0.

    Negative scores, which mark missing windows, stay.
    """
    scores = np.asarray(scores, np.float32)
    factor = np.maximum(np.asarray(factor, np.float32), np.finfo(np.float32).tiny)  # 0 by underflow
    scaled = scores * factor / (1 - scores + scores * factor)
    return np.where(scores < 0, scores, scaled).astype(np.float32)
