"""Products, 3x3 convolutions and pooling against plain sums in float64, in both precisions; variables for inference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from fastmask_jax.inference.generator import ProposalGenerator
from fastmask_jax.models.inference_variables import inference_variables
from fastmask_jax.models.padding import max_pool3
from fastmask_jax.models.products import Conv3x3, Dense, conv3x3, product
from tests.plain_network import conv
from tests.test_generator import EVALUATION

BFLOAT16 = 2.0**-8  # relative rounding error of a factor


@settings(max_examples=20, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.integers(1, 3),
    low=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_convolution_of_any_size_is_the_plain_one(sides, channels, stride, low, seed):
    rng = np.random.default_rng(seed)
    x, kernel = rng.normal(size=(2, *sides, channels[0])), rng.normal(size=(3, 3, *channels))
    got = conv3x3(
        jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.bfloat16 if low else jnp.float32), stride, "float32"
    )
    assert got.dtype == jnp.float32
    wanted = np.stack([conv(one, {"kernel": kernel}, stride, pad=1) for one in x])
    bound = np.stack(
        [conv(np.abs(one), {"kernel": np.abs(kernel)}, stride, pad=1) for one in x]
    )  # of the sum of all terms
    assert got.shape == wanted.shape  # and `bound` is the sum of the absolute terms
    assert (np.abs(got - wanted) <= (2.7 * BFLOAT16 if low else 1e-6) * bound + 1e-6).all()


@pytest.mark.parametrize("kernel_dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_product_has_the_lower_precision_and_the_dtype_of_the_layer(kernel_dtype, dtype):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(4, 3, 50)).astype(np.float32), rng.normal(size=(50, 6)).astype(np.float32)
    got = product(jnp.asarray(x), jnp.asarray(kernel, kernel_dtype), dtype)
    assert got.dtype == dtype
    low = jnp.bfloat16 in (kernel_dtype, dtype)
    rounded = [np.asarray(jnp.asarray(a, jnp.bfloat16 if low else jnp.float32), np.float64) for a in (x, kernel)]
    # Factors are rounded, once; sums are those of float32, and rounded at the end in the lower precision.
    tolerance = {"rtol": BFLOAT16, "atol": 1e-5} if low else {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(np.asarray(got, np.float64), rounded[0] @ rounded[1], **tolerance)


@pytest.mark.parametrize("layer", [Dense(4), Conv3x3(4)])
def test_layers_add_a_bias_in_float32(layer):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 6, 3)), jnp.float32)
    params = layer.init(jax.random.key(0), x)["params"]
    plain = layer.apply({"params": params}, x)
    params["bias"] = jnp.asarray([0.0, 1.0, 1e-3, 1234.567], jnp.float32)
    np.testing.assert_allclose(
        layer.apply({"params": params}, x) - plain, np.broadcast_to(params["bias"], plain.shape), rtol=1e-3, atol=1e-6
    )


@settings(max_examples=20, deadline=None)
@given(sides=st.tuples(st.integers(1, 6), st.integers(1, 6)), begin=st.integers(0, 1), seed=st.integers(0, 99))
def test_pooling_takes_the_maximum_of_each_window(sides, begin, seed):
    height, width = (2 * side for side in sides)
    x = np.maximum(np.random.default_rng(seed).normal(size=(2, height, width, 3)), 0).astype(np.float32)
    got = np.asarray(max_pool3(jnp.asarray(x), begin))
    assert got.shape == (2, *sides, 3)
    for i, j in np.ndindex(*sides):
        rows, columns = (slice(max(2 * n - begin, 0), 2 * n - begin + 3) for n in (i, j))
        np.testing.assert_array_equal(got[:, i, j], x[:, rows, columns].max((1, 2)))


def test_variables_for_inference_give_the_same_proposals(tiny_network):
    model, variables = tiny_network
    image = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3)), jnp.float32)
    size = jnp.asarray([[64, 96], [60, 80]], jnp.int32)

    def scores_of(variables):
        levels = model.apply(variables, image, size, method="levels")
        affine = jnp.ones(levels[0].shape[-1]), jnp.zeros(levels[0].shape[-1])
        return np.asarray(model.apply(variables, levels, affine, size, method="score_all"))

    plain = scores_of(variables)
    exact = scores_of(inference_variables(model, variables))
    rounded = scores_of(inference_variables(model, variables, "bfloat16"))
    finite = np.isfinite(plain)
    assert (np.isfinite(exact) == finite).all() and (np.isfinite(rounded) == finite).all()
    spread = plain[finite].std()
    np.testing.assert_allclose(exact[finite], plain[finite], atol=1e-5 * max(1, np.abs(plain[finite]).max()))
    assert 0 < np.abs(rounded[finite] - plain[finite]).max() < 0.3 * spread


def test_only_the_kernels_of_products_are_rounded(tiny_network):
    model, variables = tiny_network
    stored = inference_variables(model, variables, "bfloat16")
    for path, array in jax.tree_util.tree_leaves_with_path(stored["params"]):
        names = [entry.key for entry in path]
        rounded = names[-1] == "kernel" and "stem" not in names
        assert array.dtype == (jnp.bfloat16 if rounded else jnp.float32), names
    assert stored["frozen_stats"] is variables["frozen_stats"]
    assert "spectra" not in inference_variables(model, variables, platform="gpu")


def test_the_precision_is_a_setting(tiny_network):
    model, variables = tiny_network
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    found = {}
    for precision in ("float32", "bfloat16"):
        config = ConfigDict({"evaluation": EVALUATION | {"precision": precision}})
        found[precision] = ProposalGenerator(model, variables, config).propose(image)
    exact, rounded = found["float32"], found["bfloat16"]
    assert not np.array_equal(exact.scores, rounded.scores)
    np.testing.assert_allclose(exact.scores, rounded.scores, atol=0.05)
