"""Depthwise convolutions as sums of shifted maps, compared with SciPy and with XLA's convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from fastmask_jax.models.depthwise import depthwise

# (rows, columns, k, step, begin): sides divisible by the step and others, and maps smaller than the kernel
CASES = [
    (7, 10, 3, 1, 1),
    (6, 9, 5, 1, 2),
    (8, 11, 3, 2, 0),
    (9, 8, 3, 2, 1),
    (10, 7, 5, 2, 1),
    (7, 8, 5, 2, 2),
    (9, 10, 3, 3, 0),
    (11, 6, 5, 3, 1),
    (1, 2, 5, 2, 1),
]


def drawn(rows, columns, k):
    rng = np.random.default_rng(rows * columns + k)
    return rng.normal(size=(2, rows, columns, 3)).astype(np.float32), rng.normal(size=(k, k, 3)).astype(np.float32)


def plain(x, kernel, step, begin):
    """Convolves every channel with SciPy, then selects the strided cells."""
    rows, columns = x.shape[1:3]
    k = len(kernel)
    padded = np.pad(x.astype(np.float64), ((0, 0), (begin, k + step), (begin, k + step), (0, 0)))
    every = [[correlate2d(image[..., c], kernel[..., c], "valid") for c in range(3)] for image in padded]
    return np.moveaxis(np.array(every), 1, -1)[:, :rows:step, :columns:step]


@pytest.mark.parametrize(("rows", "columns", "k", "step", "begin"), CASES)
def test_depthwise_is_scipys(rows, columns, k, step, begin):
    x, kernel = drawn(rows, columns, k)
    got = depthwise(jnp.asarray(x), jnp.asarray(kernel), step, begin)
    want = plain(x, kernel, step, begin)
    assert got.shape == (2, -(-rows // step), -(-columns // step), 3)
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(("rows", "columns", "k", "step", "begin"), CASES)
def test_gradients_are_those_of_xlas_convolution(rows, columns, k, step, begin):
    x, kernel = (jnp.asarray(a) for a in drawn(rows, columns, k))

    def convolution(x, kernel):
        end = [(-(-side // step) - 1) * step + k - begin - side for side in x.shape[1:3]]
        return jax.lax.conv_general_dilated(
            x,
            kernel[:, :, None],
            (step, step),
            [(begin, e) for e in end],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=3,
        )

    want, want_back = jax.vjp(convolution, x, kernel)
    got, got_back = jax.vjp(lambda x, kernel: depthwise(x, kernel, step, begin), x, kernel)
    dy = jnp.asarray(np.random.default_rng(0).normal(size=want.shape), jnp.float32)
    np.testing.assert_allclose(got, want, atol=1e-5)
    for a, b in zip(got_back(dy), want_back(dy), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_bfloat16_sums_its_kernel_gradient_in_float32():
    """3,000 equal products of 1/256: in bfloat16, a running sum would stop growing at 1 + 1/128."""
    x = jnp.full((1, 50, 60, 1), 1 / 256, jnp.bfloat16)
    _, back = jax.vjp(lambda kernel: depthwise(x, kernel, 1, 0), jnp.zeros((1, 1, 1), jnp.bfloat16))
    (gradient,) = back(jnp.ones((1, 50, 60, 1), jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16
    assert float(gradient[0, 0, 0]) == pytest.approx(3000 / 256, rel=1 / 128)
