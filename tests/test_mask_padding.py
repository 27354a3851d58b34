"""Masks of the padding, and pooling within them, compared with loops over each image alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmask_jax.models.padding import average_pool2, mask_padding, max_pool2, valid_cells, valid_mask
from tests.plain_network import halve, pool

STRIDE = 16
POOLS = {
    "average": (jax.jit(average_pool2, static_argnums=2), halve),
    "max": (jax.jit(max_pool2, static_argnums=2), lambda x: pool(x, 2, 2, 0, True, np.max)),
}


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 99)), min_size=1, max_size=3), st.sampled_from([1, 8, 24]))
def test_valid_cells_are_ceilings(sizes, stride):
    size = jnp.asarray(sizes, jnp.int32)
    want = [[-(-h // stride), -(-w // stride)] for h, w in sizes]
    assert valid_cells(size, stride).tolist() == want
    mask = np.asarray(valid_mask(size, stride, 20, 30))
    for b, (rows, columns) in enumerate(want):
        assert mask[b, :rows, :columns].all()
        assert mask[b].sum() == min(rows, 20) * min(columns, 30)


def test_what_lies_beyond_is_cut_whatever_it_is():
    x = np.full((2, 3, 4, 1), np.nan, np.float32)
    x[0, :2, :1] = 7
    x[1, :3, :4] = 8
    got = np.asarray(mask_padding(jnp.asarray(x), jnp.array([[20, 16], [48, 64]]), STRIDE))
    assert (got[0, :2, :1] == 7).all() and got[0].sum() == 14
    assert (got[1] == 8).all()


@pytest.mark.parametrize("kind", POOLS)
@pytest.mark.parametrize(("h", "w"), [(5, 7), (6, 8)])
@settings(max_examples=20)
@given(data=st.data())
def test_pooling_is_that_of_each_image_alone(kind, h, w, data):
    own = data.draw(st.lists(st.tuples(st.integers(1, h), st.integers(1, w)), min_size=2, max_size=2))
    x = np.random.default_rng(len(own)).normal(size=(2, h, w, 3)).astype(np.float32) - 2
    size = jnp.array([[a * STRIDE - 4, b * STRIDE] for a, b in own])
    jitted, plain = POOLS[kind]
    got = np.asarray(jitted(mask_padding(jnp.asarray(x), size, STRIDE), size, STRIDE))
    assert got.shape == (2, -(-h // 2), -(-w // 2), 3)
    for b, (rows, columns) in enumerate(own):
        want = np.zeros(got.shape[1:])
        alone = plain(x[b, :rows, :columns].astype(np.float64))
        want[: alone.shape[0], : alone.shape[1]] = alone
        np.testing.assert_allclose(got[b], want, rtol=1e-6, atol=1e-6)


def test_average_pooling_with_partial_cells_by_hand():
    x = jnp.arange(9, dtype=jnp.float32).reshape(1, 3, 3, 1)
    got = average_pool2(x, jnp.array([[12, 12]]), 4)[0, :, :, 0]
    assert got.tolist() == [[2.0, 3.5], [6.5, 8.0]]
