"""Padding changes nothing: features, scores and masks of an image are the same alone and in any bucket and batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmask_jax.geometry import all_windows, level_sizes
from fastmask_jax.models.fastmask import FastMask
from fastmask_jax.models.resnet import ResNet
from tests.plain_network import random_variables

TOLERANCE = 1e-4


@functools.cache
def runner(network):
    """Returns a function that computes the level maps, and score, mask and attention of every window."""

    def run(variables, image, size):
        count = len(all_windows(*image.shape[1:3], network.strides))
        levels = network.apply(variables, image, size, method="levels")
        return levels, network.apply(variables, image, size, count, method="propose")

    return jax.jit(run)


def batch_of(images, bucket, fill=None):
    """Returns images padded to a bucket, with zeros or random values from `fill`."""
    out = np.zeros((len(images), *bucket, 3), np.float32)
    if fill is not None:
        out[:] = fill.uniform(-1000, 1000, out.shape)
    for place, image in zip(out, images, strict=True):
        place[: image.shape[0], : image.shape[1]] = image
    return jnp.asarray(out), jnp.asarray([image.shape[:2] for image in images], jnp.int32)


def of_each_image(network, variables, images, bucket, fill=None):
    """Returns for every image (level maps cropped to it, {window: (score, mask logits, attention)})."""
    levels, decoded = jax.tree.map(np.asarray, runner(network)(variables, *batch_of(images, bucket, fill)))
    results = []
    for b, image in enumerate(images):
        cells = level_sizes(*image.shape[:2], network.strides)
        for x, (h, w) in zip(levels, cells, strict=True):
            assert not x[b, h:].any() and not x[b, :, w:].any()
        maps = [x[b, :h, :w] for x, (h, w) in zip(levels, cells, strict=True)]
        exists = decoded.scores[b] >= 0
        parts = (x[b, exists] for x in (decoded.windows, decoded.scores, decoded.mask_logits, decoded.attention))
        results.append((maps, {tuple(w.tolist()): rest for w, *rest in zip(*parts, strict=True)}))
    return results


def assert_same(got, want, image, strides):
    """Equal within 1e-4 of the largest value of the same kind, which is of order one and more."""
    for a, b in zip(got[0], want[0], strict=True):
        assert np.abs(b).max() > 0.1
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE * max(np.abs(b).max(), 1))
    assert set(got[1]) == set(want[1]) == {tuple(w) for w in all_windows(*image.shape[:2], strides).tolist()}
    every = sorted(want[1])
    for part in range(3):
        a, b = (np.stack([one[1][w][part] for w in every]) for one in (got, want))
        assert b.std() > 1e-3
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE * max(np.abs(b).max(), 1))


def random_images(*sizes):
    """Returns images of noise on a slope, 0 to 255."""
    rng = np.random.default_rng(0)
    images = []
    for h, w in sizes:
        slope = np.linspace(0, 120, h)[:, None, None] + np.linspace(0, 60, w)[None, :, None]
        images.append((slope + rng.uniform(0, 75, (h, w, 3))).astype(np.float32))
    return images


def measured(network, variables, images, bucket):
    """Returns variables with the statistics of these images in every norm, so that values are of order one."""
    image, size = batch_of(images, bucket)
    windows = jnp.zeros((len(images), 1, 3), jnp.int32)

    def run(variables):
        return network.apply(
            variables, image, size, windows, windows, train=True, mutable=["frozen_stats", "batch_stats"]
        )[1]

    return variables | jax.jit(run)(variables)


def check(network, variables, images, *buckets):
    """Compares the first image alone, without padding, with itself first and last in a batch in every bucket."""
    (want,) = of_each_image(network, variables, images[:1], images[0].shape[:2])
    for bucket in buckets:
        batch = of_each_image(network, variables, images, bucket, np.random.default_rng(1))
        turned = of_each_image(network, variables, images[::-1], bucket)[::-1]
        assert_same(batch[0], want, images[0], network.strides)
        for got, other, image in zip(batch, turned, images, strict=True):
            assert_same(got, other, image, network.strides)


@pytest.mark.parametrize("flavor", ["caffe", "torchvision"])
def test_the_full_network(flavor):
    """ResNet-50 and all seven levels; 140x188 pixels are 35x47 cells at stride 4, 18x24 at 8, 9x12 at 16, 5x6 at 32."""
    network = FastMask(ResNet(flavor=flavor))
    images = random_images((140, 188), (76, 236))
    windows = jnp.zeros((1, 1, 3), jnp.int32)
    variables = random_variables(network, jnp.zeros((1, 64, 64, 3)), jnp.array([[64, 64]]), windows, windows)
    variables = measured(network, variables, images[:1], images[0].shape[:2])
    check(network, variables, images, (200, 264))


def test_every_bucket(tiny_network):
    check(*tiny_network, random_images((68, 92), (100, 44)), (100, 92), (128, 100))


@pytest.mark.parametrize("kind", ["average", "max", "feedforward"])
def test_every_neck(tiny_network, kind):
    """Compares the features of the levels; later layers do not depend on the neck."""
    network, variables = tiny_network
    network = network.clone(neck=kind)
    params = {name: part for name, part in variables["params"].items() if name != "neck" or kind == "feedforward"}
    run = jax.jit(lambda *batch: network.apply({**variables, "params": params}, *batch, method="levels"))
    images = random_images((68, 92), (100, 44))
    alone, batch = run(*batch_of(images[:1], (68, 92))), run(*batch_of(images, (100, 140), np.random.default_rng(1)))
    for a, b, (h, w) in zip(alone, batch, level_sizes(68, 92, network.strides), strict=True):
        assert np.abs(a).max() > 0.1
        np.testing.assert_allclose(b[0, :h, :w], a[0], rtol=0, atol=TOLERANCE)
        assert not b[0, h:].any() and not b[0, :, w:].any()


def test_what_training_learns_from_a_batch_is_not_its_padding(tiny_network):
    """Compares the scores with the batch's own window moments, and the moments, in two buckets."""
    network, variables = tiny_network
    images = random_images((68, 92), (100, 44))
    windows = jnp.asarray([[(0, 5, 3), (1, 2, 2), (2, 4, 2), (3, 2, 1)]] * 2, jnp.int32)
    run = jax.jit(
        lambda *batch: network.apply(variables, *batch, windows, windows, train=True, mutable=["batch_stats"])
    )
    outputs = []
    for bucket in [(100, 92), (128, 144)]:
        out, state = run(*batch_of(images, bucket, np.random.default_rng(3)))
        outputs.append((out.scores, out.mask_logits, out.attention, state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=TOLERANCE), *outputs)
