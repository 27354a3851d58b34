"""The four necks compared with plain float64 ones, alone and in a padded batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmask_jax.models.neck import Neck
from tests.plain_network import neck, random_variables, weights_of

KINDS = ("residual", "average", "max", "feedforward")
STRIDE = 16


@pytest.mark.parametrize("kind", KINDS)
def test_neck_is_the_plain_one(kind):
    """Images of 5x7, 4x1 and 3x6 cells in one batch: results equal those of each image alone, padded by zeros."""
    own = [(5, 7), (4, 1), (3, 6)]
    x = np.zeros((3, 5, 7, 6), np.float32)
    for b, (h, w) in enumerate(own):
        x[b, :h, :w] = np.random.default_rng(b).uniform(0, 2, (h, w, 6))
    size = jnp.array([[h * STRIDE - 4, w * STRIDE - 12] for h, w in own])
    net = Neck(kind, hidden=5)
    variables = random_variables(net, jnp.asarray(x), size, STRIDE)
    got = np.asarray(jax.jit(net.apply, static_argnums=3)(variables, jnp.asarray(x), size, STRIDE))
    weights = weights_of(variables)
    assert bool(weights) == (kind in ("residual", "feedforward"))
    for b, (h, w) in enumerate(own):
        alone = neck(weights, x[b, :h, :w].astype(np.float64), kind)
        want = np.zeros(got.shape[1:])
        want[: alone.shape[0], : alone.shape[1]] = alone
        np.testing.assert_allclose(got[b], want, rtol=1e-5, atol=1e-5)


def test_residual_neck_starts_as_average_pooling():
    x = jnp.asarray(np.random.default_rng(0).uniform(0, 50, (1, 3, 4, 64)), jnp.float32)
    size = jnp.array([[48, 64]])
    pooled = Neck("average").apply({}, x, size, STRIDE)
    residual = Neck("residual")
    variables = jax.jit(residual.init, static_argnums=3)(jax.random.key(0), x, size, STRIDE)
    for name in ("conv1", "conv2"):
        layer = variables["params"][name]
        assert 0.9e-5 < jnp.std(layer["kernel"]) < 1.1e-5
        assert not layer["bias"].any()
    np.testing.assert_allclose(residual.apply(variables, x, size, STRIDE), pooled, rtol=1e-5)
    feedforward = Neck("feedforward")
    variables = jax.jit(feedforward.init, static_argnums=3)(jax.random.key(0), x, size, STRIDE)
    assert jnp.std(feedforward.apply(variables, x, size, STRIDE)) > 1
