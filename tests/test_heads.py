"""The heads and mask upsampling, compared with float64 NumPy and a literal transposed convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from fastmask_jax.geometry import upscale_matrix
from fastmask_jax.models.heads import MaskHead, ObjectnessHead, upscale
from tests.plain_network import mask, objectness, random_variables, weights_of


@pytest.fixture(scope="module")
def windows():
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 10, 10, 3)), jnp.float32)


def test_objectness_is_the_plain_one(windows):
    head = ObjectnessHead(widths=(16, 24))
    variables = random_variables(head, windows)
    got = head.apply(variables, windows)
    assert got.shape == (2, 5) and got.dtype == jnp.float32
    want = objectness(weights_of(variables), np.asarray(windows, np.float64))
    np.testing.assert_allclose(got.reshape(-1), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["attentional", "standard"])
def test_mask_head_is_the_plain_one(windows, kind):
    head = MaskHead(kind, width=12)
    variables = random_variables(head, windows)
    assert ("attention" in variables["params"]) == (kind == "attentional")
    assert set(variables["params"]["fc1"]) == {"kernel"}
    got = head.apply(variables, windows)
    want = mask(weights_of(variables), np.asarray(windows, np.float64).reshape(-1, 10, 10, 3), kind)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a.reshape(b.shape), b, rtol=1e-4, atol=1e-5)


def test_scale_and_shift_of_the_mask_norm_are_trained(windows):
    head = MaskHead(width=12)
    variables = random_variables(head, windows)

    def loss(params):
        return jnp.mean(head.apply({**variables, "params": params}, windows)[0] ** 2)

    grads = jax.grad(loss)(variables["params"])["norm"]
    assert jnp.all(grads["scale"] != 0) and jnp.all(grads["bias"] != 0)


def test_upscale_is_a_transposed_convolution():
    """Bilinear 8x8 kernel, stride 4, two cells cut at the border: docs/network.md §1."""
    coarse = np.random.default_rng(0).normal(size=(3, 40, 40))
    tap = np.array([1, 3, 5, 7, 7, 5, 3, 1]) / 8
    for one, got in zip(coarse, upscale(jnp.asarray(coarse, jnp.float32)), strict=True):
        spread = np.zeros((157, 157))
        spread[::4, ::4] = one
        want = signal.convolve2d(spread, np.outer(tap, tap))[2:-2, 2:-2]
        assert want.shape == (160, 160)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_upscale_keeps_a_constant_but_at_the_border():
    sums = upscale_matrix().sum(axis=1)
    np.testing.assert_allclose(sums[2:-2], 1)
    np.testing.assert_allclose(sums[[0, 1, -2, -1]], [5 / 8, 7 / 8, 7 / 8, 5 / 8])


def test_dropout_of_an_image_does_not_depend_on_its_batch(windows):
    head = ObjectnessHead(widths=(16, 24))
    variables = random_variables(head, windows)
    keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(3), n))(jnp.arange(2))
    together = head.apply(variables, windows, dropout_keys=keys)
    for b in range(2):
        alone = head.apply(variables, windows[b : b + 1], dropout_keys=keys[b : b + 1])
        np.testing.assert_allclose(together[b], alone[0], rtol=1e-5, atol=1e-6)
    assert not np.allclose(together, head.apply(variables, windows))
    assert not np.allclose(together, head.apply(variables, windows, dropout_keys=keys[::-1]))


def test_dropout_keeps_the_expectation():
    """A network that is linear after the dropout: the mean over many keys is the value without dropout."""
    head = ObjectnessHead(widths=(8, 1), dropout=0.25)
    x = jnp.abs(jnp.asarray(np.random.default_rng(1).normal(size=(1, 1, 10, 10, 1)), jnp.float32))
    variables = jax.tree.map(jnp.abs, random_variables(head, x))  # no ReLU is ever below zero
    keys = jax.random.split(jax.random.key(0), 4000)
    noisy = jax.jit(head.apply)(variables, jnp.broadcast_to(x, (4000, *x.shape[1:])), dropout_keys=keys)
    np.testing.assert_allclose(noisy.mean(), head.apply(variables, x)[0, 0], rtol=0.01)
    assert noisy.std() > 0


def test_detail_branch_is_the_plain_one(windows):
    head = MaskHead("standard", width=12, conv_width=4)
    variables = random_variables(head, windows)
    got, _ = head.apply(variables, windows)
    want, _ = mask(weights_of(variables), np.asarray(windows, np.float64).reshape(-1, 10, 10, 3), "standard")
    np.testing.assert_allclose(np.asarray(got).reshape(-1, 40, 40), want, rtol=1e-4, atol=1e-5)


def test_detail_branch_starts_at_zero(windows):
    head = MaskHead("standard", width=12, conv_width=4)
    variables = head.init(jax.random.key(0), windows)
    assert not np.any(variables["params"]["detail_logits"]["kernel"])
