"""The two norms compared with literal float64 statistics: of an image's own cells, and of every window."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmask_jax.geometry import level_sizes
from fastmask_jax.models.norms import FrozenNorm, WindowNorm, window_counts, window_moments
from tests.plain_network import all_windows, random_variables

STRIDES = (16, 24, 32)
PADDED = (96, 80)
SIZES = [(96, 80), (44, 52), (4, 64), (20, 12), (72, 8), (60, 60), (96, 4), (28, 76)]
EPSILON = 1e-5


def level_maps(sizes, mean=0.3, seed=0):
    """Returns padded maps of images of `sizes`, zero in the padding: [B, h, w, 3] per level."""
    rng = np.random.default_rng(seed)
    maps = [np.zeros((len(sizes), h, w, 3), np.float32) for h, w in level_sizes(*PADDED, STRIDES)]
    for b, size in enumerate(sizes):
        for x, (h, w) in zip(maps, level_sizes(*size, STRIDES), strict=True):
            x[b, :h, :w] = rng.normal(mean, 1, (h, w, 3))
    return maps


def literal_moments(maps, sizes):
    """Mean and variance in float64 over every entry of every window of every image."""
    entries = []
    for b, size in enumerate(sizes):
        cells = zip(maps, level_sizes(*size, STRIDES), strict=True)
        entries.append(all_windows([x[b, :h, :w].astype(np.float64) for x, (h, w) in cells]).reshape(-1, 3))
    entries = np.concatenate(entries)
    return entries.mean(axis=0), entries.var(axis=0)


moments = jax.jit(lambda levels, size: window_moments(levels, size, STRIDES))


@pytest.mark.parametrize("mean", [0.0, 0.3, 1000.0])
@pytest.mark.parametrize("count", [1, 3])
def test_window_moments_are_those_of_all_windows(mean, count):
    sizes = SIZES[1 : 1 + count]
    maps = level_maps(sizes, mean)
    got = moments([jnp.asarray(x) for x in maps], jnp.asarray(sizes))
    for a, b in zip(got, literal_moments(maps, sizes), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-6)


@given(st.integers(1, 33), st.integers(1, 40), st.sampled_from([16, 24]))
def test_window_counts_are_those_of_loops(quarters_high, quarters_wide, stride):
    size = jnp.array([[4 * quarters_high, 4 * quarters_wide]])
    got = np.asarray(window_counts(size, stride, 10, 12))[0]
    h, w = -(-4 * quarters_high // stride), -(-4 * quarters_wide // stride)
    want = np.zeros_like(got)
    for i in range(h + 1):
        for j in range(w + 1):
            want[:h, :w][max(i - 5, 0) : i + 5, max(j - 5, 0) : j + 5] += 1
    np.testing.assert_array_equal(got, want)


def test_window_norm_normalizes_by_the_batch_and_keeps_corrected_averages():
    norm = WindowNorm(decay=0.9)
    batches = [level_maps([SIZES[n]], mean=n, seed=n) for n in range(1, 4)]
    arguments = [([jnp.asarray(x) for x in maps], jnp.asarray([SIZES[n]])) for n, maps in enumerate(batches, 1)]
    variables = random_variables(norm, *arguments[0], STRIDES, True)
    params = variables["params"]
    state = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
    apply = jax.jit(lambda v, levels, size: norm.apply(v, levels, size, STRIDES, True, mutable=["batch_stats"]))
    literal = []
    for n, (levels, size) in enumerate(arguments, 1):
        (factor, shift), new = apply({"params": params, "batch_stats": state}, levels, size)
        state = new["batch_stats"]
        mean, var = literal_moments(batches[n - 1], [SIZES[n]])
        literal.append((mean, var))
        np.testing.assert_allclose(factor, params["scale"] / np.sqrt(var + EPSILON), rtol=1e-5)
        np.testing.assert_allclose(factor * mean + shift, params["bias"], rtol=1e-4, atol=1e-5)
        decayed = 0.9 ** np.arange(n)[::-1]
        for which, name in enumerate(("mean", "var")):
            want = np.average([one[which] for one in literal], axis=0, weights=decayed)
            np.testing.assert_allclose(state[name], want, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state["weight"], decayed.sum(), rtol=1e-6)
    # Inference uses the stored moments, whatever the input.
    factor, shift = norm.apply({"params": params, "batch_stats": state}, *arguments[0], STRIDES, False)
    np.testing.assert_allclose(factor, params["scale"] / np.sqrt(state["var"] + EPSILON), rtol=1e-6)
    np.testing.assert_allclose(factor * state["mean"] + shift, params["bias"], rtol=1e-5, atol=1e-6)


def test_moments_over_several_devices_are_those_of_one():
    devices = jax.local_device_count()
    if devices == 1 or len(SIZES) % devices:
        pytest.skip(f"{len(SIZES)} images and {devices} device(s)")
    maps = [jnp.asarray(x) for x in level_maps(SIZES)]
    size = jnp.asarray(SIZES)
    split = jax.pmap(lambda levels, size: window_moments(levels, size, STRIDES, "device"), axis_name="device")
    each = split(*jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), (maps, size)))
    for a, b in zip(each, moments(maps, size), strict=True):
        np.testing.assert_allclose(a, np.broadcast_to(b, (devices, 3)), rtol=1e-5, atol=1e-6)


def test_frozen_norm_normalizes_by_what_is_stored():
    x = jnp.asarray(np.random.default_rng(0).normal(2, 3, (2, 4, 5, 6)), jnp.float32)
    norm = FrozenNorm()
    variables = random_variables(norm, x)
    p, s = variables["params"], variables["frozen_stats"]
    want = (np.asarray(x, np.float64) - s["mean"]) / np.sqrt(s["var"] + EPSILON) * p["scale"] + p["bias"]
    np.testing.assert_allclose(norm.apply(variables, x), want, rtol=1e-5, atol=1e-5)


def test_measuring_stores_the_moments_of_the_images_own_cells():
    x = np.random.default_rng(0).normal(2, 3, (2, 4, 5, 6)).astype(np.float32)
    size = jnp.array([[60, 40], [16, 80]])  # 4 x 3 and 1 x 5 cells of stride 16
    norm = FrozenNorm()
    variables = random_variables(norm, jnp.asarray(x))
    got, state = norm.apply(variables, jnp.asarray(x), size, 16, mutable=["frozen_stats"])
    own = np.concatenate([x[0, :, :3].reshape(-1, 6), x[1, :1].reshape(-1, 6)]).astype(np.float64)
    np.testing.assert_allclose(state["frozen_stats"]["mean"], own.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state["frozen_stats"]["var"], own.var(axis=0), rtol=1e-5)
    np.testing.assert_allclose(got, norm.apply({**variables, **state}, jnp.asarray(x)), rtol=1e-6)
