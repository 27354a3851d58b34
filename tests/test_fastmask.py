"""The whole network: compared with a plain float64 network, parameter counts, and guarantees of inference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmask_jax.geometry import all_windows
from fastmask_jax.models.fastmask import FastMask
from fastmask_jax.models.resnet import ResNet
from fastmask_jax.models.windows import MAP_FORMS
from tests import plain_network as plain

BUCKET = (64, 96)
SIZE = (52, 76)
STRIDES = (16, 24, 32, 48)


def padded(height=SIZE[0], width=SIZE[1], seed=0):
    """Returns (an image of random bytes padded to BUCKET, its pixels without padding)."""
    image = np.zeros((1, *BUCKET, 3), np.uint8)
    image[0, :height, :width] = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return jnp.asarray(image), image[0, :height, :width]


def propose(network, count):
    return jax.jit(lambda variables, image, size: network.apply(variables, image, size, count, method="propose"))


@pytest.fixture(scope="module")
def literal(tiny_network):
    """{(level, i, j): (objectness, mask logits, attention)} of the image, with every window built, in float64."""
    _, variables = tiny_network
    w = plain.weights_of(variables)
    windows = plain.all_windows(plain.level_maps(w, padded()[1], STRIDES))
    windows = plain.norm(windows, w["window_norm"])
    parts = plain.sigmoid(plain.objectness(w["objectness"], windows)), *plain.mask(w["mask"], windows)
    return {tuple(n): part for n, *part in zip(all_windows(*SIZE, STRIDES).tolist(), *parts, strict=True)}


@pytest.mark.parametrize("form", MAP_FORMS)
def test_proposals_are_those_of_the_plain_network(tiny_network, literal, form):
    network, variables = tiny_network
    existing, lacking = len(literal), 200 - len(literal)
    assert lacking > 0
    got = propose(network.clone(score_form=form), 200)(variables, padded()[0], jnp.array([SIZE]))
    assert got.scores.shape == (1, 200) and got.mask_logits.shape == (1, 200, 40, 40)
    scores, windows = np.asarray(got.scores[0]), [tuple(w) for w in got.windows[0].tolist()]
    assert sorted(windows[:existing]) == sorted(literal)
    assert (np.diff(scores) <= 0).all()
    assert (scores[existing:] == -1).all() and (scores[:existing] >= 0).all()
    for n in range(existing):
        score, mask, attention = literal[windows[n]]
        np.testing.assert_allclose(scores[n], score, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got.mask_logits[0, n], mask, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(got.attention[0, n], plain.sigmoid(attention), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["gather", "patches"])
def test_chosen_windows_are_those_of_the_plain_network(tiny_network, literal, form):
    network, variables = tiny_network
    chosen = [(0, 0, 0), (0, 4, 5), (1, 3, 4), (2, 2, 3), (3, 1, 0), (3, 2, 2)]
    windows = jnp.asarray([chosen], jnp.int32)
    out = jax.jit(network.clone(train_form=form).apply)(
        variables, padded()[0], jnp.array([SIZE]), windows, windows[:, ::-1]
    )
    assert [x.shape[1:3] for x in out.levels] == [(4, 6), (3, 4), (2, 3), (2, 2)]
    for n, window in enumerate(chosen):
        np.testing.assert_allclose(plain.sigmoid(out.scores[0, n]), literal[window][0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out.mask_logits[0, -1 - n], literal[window][1], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(out.attention[0, -1 - n], literal[window][2], rtol=1e-3, atol=1e-4)


def test_ties_go_to_the_earlier_window(tiny_network):
    """With zero weights, all windows have the same score: they are returned in order, nonexistent ones last."""
    network, variables = tiny_network
    params = dict(variables["params"])
    params["objectness"] = jax.tree.map(jnp.zeros_like, params["objectness"])
    got = propose(network, 200)({**variables, "params": params}, padded()[0], jnp.array([SIZE]))
    every = all_windows(*SIZE, STRIDES)
    np.testing.assert_array_equal(got.windows[0, : len(every)], every)
    assert got.scores[0].tolist() == [0.5] * len(every) + [-1.0] * (200 - len(every))


def test_one_bucket_is_compiled_once(tiny_network):
    network, variables = tiny_network
    run = propose(network, 10)
    for size in [(52, 76), (64, 96), (4, 8), (36, 60)]:
        run(variables, padded(*size)[0], jnp.array([size]))
    assert run._cache_size() == 1


def test_bfloat16_computes_in_half_and_returns_whole(tiny_network):
    network, variables = tiny_network
    half = network.clone(body=network.body.clone(dtype=jnp.bfloat16), dtype=jnp.bfloat16)
    windows = jnp.asarray(all_windows(*SIZE, STRIDES)[None, ::5])
    arguments = padded()[0], jnp.array([SIZE]), windows, windows
    shapes = jax.eval_shape(half.init, jax.random.key(0), *arguments)
    assert jax.tree.map(lambda x: x.dtype, shapes) == jax.tree.map(lambda x: x.dtype, variables)
    a, b = jax.jit(network.apply)(variables, *arguments), jax.jit(half.apply)(variables, *arguments)
    for whole, rounded in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert rounded.dtype == jnp.float32
        assert np.abs(whole - rounded).max() > 0
        assert np.abs(whole - rounded).mean() < 0.1 * np.std(whole)
    got = jax.eval_shape(propose(half, 5), variables, *arguments[:2])
    assert {x.dtype for x in (got.scores, got.mask_logits, got.attention)} == {jnp.dtype("float32")}


def test_levels_that_no_stream_reaches_are_named(tiny_network):
    network, variables = tiny_network
    one = network.clone(body=network.body.clone(stream_strides=(2,)))
    with pytest.raises(ValueError, match=r"levels \[24, 48\] .*streams' \(16,\)"):
        jax.eval_shape(lambda v: one.apply(v, padded()[0], jnp.array([SIZE]), method="levels"), variables)


# Parameters by the layer list of docs/network.md: convolution k² · in · out, bias `out`, norm 2 · channels.
def bottleneck(width, inside, project):
    block = inside * width + 9 * width * width + width * 4 * width + 2 * (width + width + 4 * width)
    return block + (inside * 4 * width + 2 * 4 * width if project else 0)


def stage(width, inside, depth):
    return bottleneck(width, inside, True) + (depth - 1) * bottleneck(width, 4 * width, False)


BODY = 49 * 3 * 64 + 2 * 64 + stage(64, 64, 3) + stage(128, 256, 4) + stage(256, 512, 6)
STEM_BIAS = 64
NECK = 9 * 1024 * 256 + 256 + 256 * 1024 + 1024
LATERAL = 1024 * 128 + 128
WINDOW_NORM = 2 * 128
OBJECTNESS = (12800 * 512 + 512) + (512 * 1024 + 1024) + (1024 + 1)
ATTENTION = 12800 * 100 + 100
MASK = 12800 * 512 + 2 * 512 + (512 * 1600 + 1600)
EACH = {
    "body": BODY + STEM_BIAS,
    "neck": NECK,
    "lateral": LATERAL,
    "window_norm": WINDOW_NORM,
    "objectness": OBJECTNESS,
    "mask": ATTENTION + MASK,
}
ZOOM = (16, 24, 32, 48, 64, 96, 128, 192)


@pytest.mark.parametrize(
    ("body", "network", "changes"),
    [
        ({}, {}, {}),
        ({"flavor": "torchvision"}, {}, {"body": BODY}),
        ({"stream_strides": (2,)}, {"strides": (16, 32, 64, 128)}, {}),
        ({}, {"strides": ZOOM}, {}),
        ({}, {"head": "standard"}, {"mask": MASK}),
        ({}, {"neck": "average"}, {"neck": None}),
        ({}, {"neck": "max"}, {"neck": None}),
        ({}, {"neck": "feedforward"}, {}),
    ],
)
def test_parameters_are_those_of_the_layer_list(body, network, changes):
    model = FastMask(ResNet(**body), **network)
    windows = jnp.zeros((1, 1, 3), jnp.int32)
    image, size = jnp.zeros((1, 64, 64, 3)), jnp.array([[64, 64]])
    params = jax.eval_shape(model.init, jax.random.key(0), image, size, windows, windows)["params"]
    counts = {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in params.items()}
    assert counts == {name: n for name, n in (EACH | changes).items() if n is not None}


def test_the_published_network_has_27_million_parameters():
    # ResNet-50's first four stages have 8,543,296 parameters in the usual tables.
    assert BODY == 8_543_296
    assert sum(EACH.values()) == 27_033_509
