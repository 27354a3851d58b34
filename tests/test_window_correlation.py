"""Correlation with a 10x10 kernel by Fourier transforms of tiles, compared with direct sums in float64."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate

from fastmask_jax.models.window_correlation import correlate_maps, kernel_spectrum

SIDES = st.one_of(st.integers(10, 40), st.sampled_from([15, 16, 17, 22, 23, 24]))  # around whole numbers of tiles


@settings(max_examples=6, deadline=None)
@given(
    sides=st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=3), images=st.integers(1, 2), seed=st.integers(0, 99)
)
def test_maps_of_any_size_match_direct_sums(sides, images, seed):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(10, 10, 3, 2))
    maps = [rng.normal(size=(images, *side, 3)) for side in sides]
    direct = [
        np.stack([sum(correlate(one[..., c], kernel[..., c, f], "valid") for c in range(3)) for f in range(2)], -1)
        for x in maps
        for one in x
    ]
    wanted = [
        np.concatenate([direct[level * images + image].reshape(-1, 2) for level in range(len(maps))])
        for image in range(images)
    ]
    got = correlate_maps([jnp.asarray(x, jnp.float32) for x in maps], kernel_spectrum(jnp.asarray(kernel)))
    np.testing.assert_allclose(got, np.stack(wanted), atol=1e-6 * np.abs(wanted).max() * 10)


def test_rounding_does_not_grow_with_channels():
    """Inputs have unit variance, as in the network; the largest error corresponds to a few float32 roundings."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(1, 23, 30, 64)), rng.normal(size=(10, 10, 64, 4)) / np.sqrt(6400)
    windows = np.lib.stride_tricks.sliding_window_view(x[0], (10, 10), axis=(0, 1))
    wanted = np.einsum("rqcij,ijcf->rqf", windows, kernel).reshape(1, -1, 4)
    got = correlate_maps([jnp.asarray(x, jnp.float32)], kernel_spectrum(jnp.asarray(kernel)))
    assert np.abs(got - wanted).max() < 5e-6


def test_zeros_stay_zero_and_a_single_cell_is_the_flipped_kernel():
    kernel = np.arange(100.0).reshape(10, 10, 1, 1)
    x = np.zeros((1, 28, 19, 1))
    np.testing.assert_array_equal(correlate_maps([jnp.asarray(x)], kernel_spectrum(jnp.asarray(kernel))), 0)
    x[0, 12, 9, 0] = 1
    got = np.asarray(correlate_maps([jnp.asarray(x)], kernel_spectrum(jnp.asarray(kernel)))).reshape(19, 10)
    np.testing.assert_allclose(got[3:13], kernel[::-1, ::-1, 0, 0], atol=2e-4)
    np.testing.assert_allclose(got[:3], 0, atol=2e-4)
