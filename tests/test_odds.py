"""Scaled odds, compared with fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmask_jax.masks.odds import scaled_odds


@given(st.floats(0, 0.75, width=32), st.floats(0.125, 64, width=32))
def test_odds_are_multiplied(score, factor):
    exact, times = Fraction(score), Fraction(factor)
    odds = times * exact / (1 - exact)
    (ours,) = scaled_odds(np.array([score], np.float32), np.array([factor], np.float32))
    assert ours == pytest.approx(float(odds / (1 + odds)), rel=1e-4)


def test_scores_remain_numbers_at_the_ends():
    """Also with a factor that has underflowed to 0."""
    scores = np.array([-1, 0, 0.5, 1], np.float32)
    for factor in (0.0, np.zeros(4, np.float32)):
        np.testing.assert_allclose(scaled_odds(scores, factor), [-1, 0, 0, 1], atol=1e-30)
