"""Scores multiplied by the stability of masks, on hand-made masks."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fastmask_jax.masks.stability import stability, stable_scores


def logits_of(probabilities):
    return np.log(probabilities / (1 - probabilities)).astype(np.float32)


def test_stability_by_hand():
    """9 of 19 cells are certain: (9 + 1) / (19 + 1)."""
    mask = np.full((1, 40, 40), 0.01)
    mask[0, 0, :19] = 0.3
    mask[0, 0, :9] = 0.7
    sharp = np.where(mask > 0.5, 0.99, 0.01)
    np.testing.assert_allclose(stability(logits_of(np.concatenate([mask, sharp]))), [0.5, 1.0], rtol=1e-6)
    scores = np.array([0.8, 0.8], np.float32)
    # Odds of 4 times 0.5 ** 2 are 1.
    np.testing.assert_allclose(
        stable_scores(scores, logits_of(np.concatenate([mask, sharp])), 2.0), [0.5, 0.8], rtol=1e-6
    )


@given(seed=st.integers(0, 1000), weight=st.floats(0, 5))
def test_scores_stay_probabilities_and_never_rise(seed, weight):
    rng = np.random.default_rng(seed)
    scores = np.append(rng.random(6), [0.0, 1.0, -1.0]).astype(np.float32)
    lowered = stable_scores(scores, rng.normal(0, 3, (9, 40, 40)).astype(np.float32), weight)
    assert (lowered <= scores + 1e-6).all() and lowered[-1] == -1
    assert ((lowered[:-1] >= 0) & (lowered[:-1] <= 1)).all()
