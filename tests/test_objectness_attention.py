"""Objectness attention and level 8: a plain float64 network, parameters by hand, and padding that changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmask_jax.configuration import load_config
from fastmask_jax.geometry import all_windows, window_grids
from fastmask_jax.models.build import build_model, initial_variables
from fastmask_jax.models.efficientnet import EfficientNetLite
from fastmask_jax.models.fastmask import FastMask
from fastmask_jax.models.objectness_attention import ObjectnessAttention, attended
from fastmask_jax.models.resnet import ResNet
from tests import plain_network as plain
from tests.tiny import ROOT

STRIDES = (8, 16, 24, 32)
SIZE, BUCKET = (52, 76), (64, 96)
NETWORK = {
    "channels": 6,
    "neck_hidden": 8,
    "mask_width": 12,
    "objectness_widths": (16, 24),
    "objectness_attention_width": 5,
}


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.float32)


def measured(network):
    """Returns random weights, with norms that contain the statistics of an image, so that values are of order one."""
    windows = jnp.zeros((1, 1, 3), jnp.int32)
    arguments = jnp.asarray(noise(96, 128, 7))[None], jnp.array([[96, 128]]), windows, windows
    variables = plain.random_variables(network, *arguments)
    measure = jax.jit(lambda v: network.apply(v, *arguments, train=True, mutable=["frozen_stats", "batch_stats"])[1])
    return variables | measure(variables)


@pytest.fixture(scope="module")
def attentive():
    network = FastMask(ResNet(width=4, depths=(1, 1, 1)), strides=STRIDES, attended_windows=30, **NETWORK)
    return network, measured(network)


@pytest.fixture(scope="module")
def literal(attentive):
    """(attention of all windows in order, {window: (objectness, mask logits)}), built one by one in float64."""
    w = plain.weights_of(attentive[1])
    features = plain.level_features(w, noise(*SIZE), STRIDES)
    attention = plain.objectness_attention(w["objectness_attention"], features, STRIDES)
    windows = plain.norm(plain.all_windows(plain.level_maps(w, noise(*SIZE), STRIDES)), w["window_norm"])
    scores = plain.sigmoid(plain.objectness(w["objectness"], windows))
    masks, _ = plain.mask(w["mask"], windows)
    every = map(tuple, all_windows(*SIZE, STRIDES).tolist())
    flat = np.concatenate([values.ravel() for values in attention])
    return flat, dict(zip(every, zip(scores, masks, strict=True), strict=True))


def in_bucket(image, bucket, seed=None):
    """Returns [1, H, W, 3], with zeros beyond the image, or random values if `seed` is given."""
    rng = np.random.default_rng(seed or 0)
    padded = rng.uniform(-1000, 1000, (1, *bucket, 3)).astype(np.float32) * (seed is not None)
    padded[0, : image.shape[0], : image.shape[1]] = image
    return jnp.asarray(padded), jnp.array([image.shape[:2]])


def propose(network, count):
    return jax.jit(lambda variables, image, size: network.apply(variables, image, size, count, method="propose"))


def test_attention_is_that_of_the_plain_network(attentive, literal):
    network, variables = attentive
    windows = jnp.zeros((1, 1, 3), jnp.int32)
    out = jax.jit(network.apply)(variables, *in_bucket(noise(*SIZE), BUCKET, seed=1), windows, windows)
    start = 0
    grids = zip(out.objectness_attention, window_grids(*SIZE, STRIDES), window_grids(*BUCKET, STRIDES), strict=True)
    for logits, (rows, columns), padded in grids:
        assert logits.shape == (1, *padded)
        want = literal[0][start : start + rows * columns].reshape(rows, columns)
        np.testing.assert_allclose(plain.sigmoid(logits[0, :rows, :columns]), want, rtol=1e-4, atol=1e-5)
        assert np.isneginf(logits[0, rows:]).all() and np.isneginf(logits[0, :, columns:]).all()
        start += rows * columns
    assert start == len(literal[0]) and literal[0].std() > 0.05


@pytest.mark.parametrize("kept", [30, 1000])
def test_windows_it_attends_to_are_scored_and_no_others(attentive, literal, kept):
    network, variables = attentive
    attention, parts = literal
    windows = list(parts)
    most = sorted(range(len(windows)), key=lambda n: -attention[n])[:kept]
    used = {windows[n] for n in most if attention[n] > 0.5}
    assert 20 < len(used) <= kept and (kept == 30 or len(used) < len(windows))
    got = propose(network.clone(attended_windows=kept), 250)(variables, *in_bucket(noise(*SIZE), BUCKET))
    scores = np.asarray(got.scores[0])
    assert (np.diff(scores) <= 0).all() and (scores[len(used) :] == -1).all()
    found = [tuple(window) for window in got.windows[0, : len(used)].tolist()]
    assert set(found) == used
    for n, window in enumerate(found):
        np.testing.assert_allclose(scores[n], parts[window][0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got.mask_logits[0, n], parts[window][1], rtol=1e-3, atol=1e-4)


def test_where_nothing_draws_attention_one_window_is_left(attentive, literal):
    network, variables = attentive
    params = jax.tree.map(lambda x: x, variables["params"])
    for stride in STRIDES:
        bias = params["objectness_attention"][f"level{stride}_conv2"]["bias"]
        params["objectness_attention"][f"level{stride}_conv2"]["bias"] = bias + jnp.array([100.0, 0.0])
    got = propose(network, 20)({**variables, "params": params}, *in_bucket(noise(*SIZE), BUCKET))
    assert (got.scores[0] >= 0).tolist() == [True] + [False] * 19
    assert tuple(got.windows[0, 0].tolist()) == list(literal[1])[int(literal[0].argmax())]


def test_padding_changes_nothing(attentive):
    """An image alone at its own size equals the image in a batch, in a larger bucket with garbage around it."""
    network, variables = attentive
    images = [noise(68, 92, 3), noise(100, 44, 4)]
    run = propose(network, 40)
    for image, other in (images, images[::-1]):
        alone = run(variables, *in_bucket(image, image.shape[:2]))
        parts = [in_bucket(one, (128, 120), seed=n + 1) for n, one in enumerate((image, other))]
        batch = run(variables, *(jnp.concatenate(part) for part in zip(*parts, strict=True)))
        np.testing.assert_array_equal(batch.windows[0], alone.windows[0])
        np.testing.assert_allclose(batch.scores[0], alone.scores[0], atol=1e-4)
        np.testing.assert_allclose(batch.mask_logits[0], alone.mask_logits[0], atol=1e-3)


def test_a_fast_body_has_a_level_8_too():
    """Returns stage 3's channels, masked, at half the stride of the finest stream; the streams do not change."""
    body = EfficientNetLite(channels=(4, 3, 4, 5, 6, 7), depths=(1, 2, 2, 1, 2), features=9)
    image, size = in_bucket(noise(*SIZE), BUCKET, seed=1)
    variables = plain.random_variables(body, image, size)
    (fine, *streams), alone = jax.jit(
        lambda v: (body.apply(v, image, size, fine=True), body.apply(v, image, size)),
    )(variables)
    assert body.fine_stride == 8 and fine.shape == (1, 8, 12, 5)
    assert fine[0, :7, :10].any((0, 2)).all() and not fine[0, 7:].any() and not fine[0, :, 10:].any()
    jax.tree.map(np.testing.assert_array_equal, streams, list(alone))


def counted(channels, width=128):
    """Counts the parameters of a level's two convolutions: 3x3 with bias, 4x4 to two channels with bias."""
    return 9 * channels * width + width + 16 * width * 2 + 2


@pytest.mark.parametrize(
    ("variant", "strides"),
    [
        ("attentionmask", (8, 16, 24, 32, 48, 64, 96, 128)),
        ("attentionmask_8_192", (8, 16, 24, 32, 48, 64, 96, 128, 192)),
        ("attentionmask_16_192", (16, 24, 32, 48, 64, 96, 128, 192)),
    ],
)
def test_parameters_of_the_published_networks(variant, strides):
    """The parameters of FastMask plus stage 3's 1x1 convolution and each level's attention."""
    model = build_model(load_config(f"{ROOT}/configs/coco.py:{variant}").model.to_dict())
    assert model.strides == strides
    params = jax.eval_shape(lambda: initial_variables(model, 0))["params"]
    counts = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in params.items()}
    coarse = sum(s > 8 for s in strides)
    assert counts.pop("objectness_attention") == counted(1024) * coarse + (counted(512) if 8 in strides else 0)
    assert counts.pop("lateral_fine", 0) == (512 * 128 + 128 if 8 in strides else 0)
    assert sum(counts.values()) == 27_033_509


def test_initial_weights_are_the_published_ones():
    features = [jnp.zeros((1, 2, 3, 40)), jnp.zeros((1, 2, 2, 40))]
    layers = ObjectnessAttention(64).init(jax.random.key(0), features, jnp.array([[32, 48]]), (16, 24))["params"]
    assert set(layers) == {f"level{s}_conv{n}" for s in (16, 24) for n in (1, 2)}
    for name, layer in layers.items():
        assert float(layer["kernel"].std()) == pytest.approx(0.01, rel=0.1)
        assert set(np.asarray(layer["bias"]).tolist()) == {0.5 if name.endswith("2") else 0.0}


@given(
    st.lists(st.sampled_from([-np.inf, -2.0, -0.5, 0.0, 0.25, 1.0, 3.0]), min_size=12, max_size=12),
    st.sampled_from([1, 5, 15]),
)
def test_attended_windows_are_the_best_above_half(logits, count):
    at, used = jax.tree.map(np.asarray, _attended(jnp.array([logits]), count))
    order = sorted(range(12), key=lambda n: (-logits[n], n))[:count]
    assert at[0].tolist() == order
    assert used[0].tolist() == [n == order[0] or logits[n] > 0 for n in order]


_attended = jax.jit(attended, static_argnums=1)
