"""The forms of windows compared with loops and with each other, and the gradient of extraction with JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from fastmask_jax.geometry import all_windows, level_sizes
from fastmask_jax.models.windows import (
    MAP_FORMS,
    WindowDense,
    extract_patches,
    flatten_levels,
    gather_windows,
    surround,
    window_cells,
)
from tests.plain_network import dense, weights_of, windows_of

STRIDES = (16, 24, 32)
PADDED = (96, 80)


def random_map(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@jax.jit
def gathered(levels, size, windows):
    index = window_cells(windows, size, STRIDES, [x.shape[1:3] for x in levels])
    return gather_windows(flatten_levels(levels), index)


def channel_major(windows):
    """[..., 10, 10, C] → [..., C * 100]."""
    return np.moveaxis(windows, -1, -3).reshape(*windows.shape[:-3], -1)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 7), (4, 3), (12, 11)])
def test_patches_are_the_windows_of_loops(h, w):
    x = random_map(2, h, w, 3)
    got = np.asarray(extract_patches(surround(x)))
    assert got.shape == (2, h + 1, w + 1, 300)
    for b in range(2):
        np.testing.assert_array_equal(got[b], channel_major(windows_of(np.asarray(x[b]))))


def test_patches_are_channel_major():
    x = jnp.arange(11 * 12 * 2, dtype=jnp.float32).reshape(1, 11, 12, 2)
    patch = np.asarray(extract_patches(x))[0, 1, 2].reshape(2, 10, 10)
    for channel, row, column in [(0, 0, 0), (1, 0, 0), (0, 9, 3), (1, 4, 9)]:
        assert patch[channel, row, column] == x[0, 1 + row, 2 + column, channel]


def test_gradient_of_patches_is_the_stock_gradient_and_that_of_loops():
    x, g = random_map(2, 13, 12, 3), random_map(2, 4, 3, 300, seed=1)

    def stock(x):
        return jax.lax.conv_general_dilated_patches(
            x, (10, 10), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    (ours,) = jax.jit(lambda x, g: jax.vjp(extract_patches, x)[1](g))(x, g)
    (theirs,) = jax.jit(lambda x, g: jax.vjp(stock, x)[1](g))(x, g)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    loops = np.zeros(x.shape)
    cotangent = np.asarray(g, np.float64).reshape(2, 4, 3, 3, 10, 10)
    for i in range(4):
        for j in range(3):
            loops[:, i : i + 10, j : j + 10] += np.moveaxis(cotangent[:, i, j], 1, -1)
    np.testing.assert_allclose(ours, loops, rtol=1e-5, atol=1e-5)


def test_gradient_of_patches_is_that_of_finite_differences():
    summed = jax.jit(lambda x: jnp.sum(jnp.sin(extract_patches(surround(x))), (1, 2)))
    check_grads(summed, (random_map(1, 2, 3, 1),), 1, ["rev"], atol=5e-2, rtol=5e-2, eps=1e-2)


@given(st.lists(st.tuples(st.integers(1, 24), st.integers(1, 20)), min_size=2, max_size=2))
@settings(max_examples=10)
def test_gathered_windows_are_those_of_each_image_alone(quarters):
    """Two images in one padded batch, with levels smaller than a window, and windows at every border."""
    sizes = [(4 * h, 4 * w) for h, w in quarters]
    every = all_windows(*PADDED, STRIDES)
    # The padding is not masked: an image's windows must not read it.
    levels = [random_map(2, h, w, 2, seed=n) for n, (h, w) in enumerate(level_sizes(*PADDED, STRIDES))]
    got = np.asarray(gathered(levels, jnp.asarray(sizes, jnp.int32), jnp.broadcast_to(every, (2, *every.shape))))
    numbers = {tuple(w): n for n, w in enumerate(every.tolist())}
    for b, (height, width) in enumerate(sizes):
        own = [np.asarray(x[b, :h, :w]) for x, (h, w) in zip(levels, level_sizes(height, width, STRIDES), strict=True)]
        want = np.concatenate([windows_of(x).reshape(-1, 10, 10, 2) for x in own])
        at = [numbers[tuple(w)] for w in all_windows(height, width, STRIDES).tolist()]
        np.testing.assert_array_equal(got[b, at], want)


def test_gradient_of_gathering_is_that_of_loops():
    """A cell's gradient is the sum over the windows that contain it; cells beyond an image have none."""
    sizes = [PADDED, (44, 52)]
    windows = all_windows(44, 52, STRIDES)
    levels = [random_map(2, h, w, 2, seed=n) for n, (h, w) in enumerate(level_sizes(*PADDED, STRIDES))]
    g = random_map(2, len(windows), 10, 10, 2, seed=9)

    def total(levels):
        return jnp.sum(g * gathered(levels, jnp.asarray(sizes), jnp.broadcast_to(windows, (2, *windows.shape))))

    want = [np.zeros(x.shape) for x in levels]
    for b, size in enumerate(sizes):
        own = level_sizes(*size, STRIDES)
        for (level, i, j), cotangent in zip(windows.tolist(), np.asarray(g[b], np.float64), strict=True):
            for r in range(max(i - 5, 0), min(i + 5, own[level][0])):
                for c in range(max(j - 5, 0), min(j + 5, own[level][1])):
                    want[level][b, r, c] += cotangent[r - i + 5, c - j + 5]
    for got, loops in zip(jax.jit(jax.grad(total))(levels), want, strict=True):
        np.testing.assert_allclose(got, loops, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_dense_layer_is_the_same_over_windows_and_in_every_form_over_maps(use_bias):
    maps = [random_map(2, h, w, 3, seed=n) for n, (h, w) in enumerate([(4, 6), (1, 1), (15, 7)])]
    layer = WindowDense(5, use_bias=use_bias)
    built = [np.stack([windows_of(np.asarray(one)).reshape(-1, 10, 10, 3) for one in x]) for x in maps]
    built = jnp.asarray(np.concatenate(built, axis=1))  # [2, 5 * 7 + 2 * 2 + 16 * 8, 10, 10, 3]
    variables = layer.init(jax.random.key(0), built)
    assert variables["params"]["kernel"].shape == (10, 10, 3, 5)
    assert ("bias" in variables["params"]) == use_bias
    want = dense(np.asarray(built, np.float64), weights_of(variables)).reshape(2, -1, 5)
    np.testing.assert_allclose(layer.apply(variables, built), want, rtol=1e-4, atol=1e-4)
    surrounded = [surround(x) for x in maps]
    for form in MAP_FORMS:
        got = jax.jit(lambda v, m, form=form: layer.apply(v, m, form, method="over_maps"))(variables, surrounded)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=form)
