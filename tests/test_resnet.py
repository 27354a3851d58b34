"""The ResNet body compared with a plain float64 network, in both flavors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmask_jax.models.resnet import ResNet
from tests.plain_network import body, bottleneck, pool, random_variables, weights_of

FLAVORS = ("caffe", "torchvision")


def tiny(flavor="caffe", **options):
    """Returns a body of width 4, with one block per stage and random weights."""
    net = ResNet(width=4, depths=(1, 1, 1), flavor=flavor) if not options else ResNet(4, flavor=flavor, **options)
    return net, random_variables(net, jnp.zeros((1, 64, 64, 3)), jnp.array([[64, 64]]))


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("options", [{"depths": (1, 2, 2)}, {"depths": (1, 1, 1), "middle_stride": 1}])
def test_body_is_the_plain_network(flavor, options):
    """Sides that are odd multiples of 4: every later stage has odd numbers of cells."""
    net, variables = tiny(flavor, **options)
    image = random_image(52, 76)
    got = jax.jit(net.apply)(variables, jnp.asarray(image)[None], jnp.array([[52, 76]]))
    want = body(weights_of(variables), image, flavor, **options)
    assert net.strides == ((8, 12) if "middle_stride" in options else (16, 24))
    for stride, a, b in zip(net.strides, got, want, strict=True):
        assert a.shape == (1, -(-52 // stride), -(-76 // stride), 64)
        np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_flavors_differ_where_the_spec_says():
    """With the same weights: the stem's bias, the position of the stride, the pool's padding, the input's scale."""
    shapes = {}
    for flavor in FLAVORS:
        _, variables = tiny(flavor)
        shapes[flavor] = jax.tree_util.tree_map(jnp.shape, variables)
    assert shapes["caffe"]["params"]["stem"].pop("bias") == (4,)
    assert shapes["caffe"] == shapes["torchvision"]
    # The plain network itself, by hand: pools of six cells, and a stride that skips the odd cells before the 3x3.
    x = np.arange(6.0)[:, None, None] * np.ones((1, 6, 1))
    assert pool(x, 3, 2, 0, True, np.max)[:, 0, 0].tolist() == [2, 4, 5]
    assert pool(x, 3, 2, 1, False, np.max)[:, 0, 0].tolist() == [1, 3, 5]
    still = {"scale": 1.0, "bias": 0.0, "mean": 0.0, "var": 1 - 1e-5}
    one = {"kernel": np.ones((1, 1))}
    w = {"conv1": one, "conv2": {"kernel": np.ones((3, 3, 1, 1))}, "conv3": one}
    w |= {"project": {"kernel": np.zeros((1, 1))}}
    w |= {name: still for name in ("norm1", "norm2", "norm3", "project_norm")}
    odd = np.zeros((4, 4, 1))
    odd[1, 1] = 1.0
    assert bottleneck(odd, w, 2, "caffe").sum() == 0
    assert bottleneck(odd, w, 2, "torchvision")[:, :, 0].tolist() == [[1, 1], [1, 1]]


def test_streams_share_their_weights():
    two, variables = tiny()
    image, size = jnp.asarray(random_image(36, 44))[None], jnp.array([[36, 44]])
    both = jax.jit(two.apply)(variables, image, size)
    for n, step in enumerate((2, 3)):
        (alone,) = jax.jit(two.clone(stream_strides=(step,)).apply)(variables, image, size)
        np.testing.assert_allclose(alone, both[n], rtol=1e-5, atol=1e-5)


def test_remat_changes_neither_value_nor_gradient():
    net, variables = tiny()
    image, size = jnp.asarray(random_image(40, 32))[None], jnp.array([[36, 28]])

    def value_and_gradient(net):
        def loss(params):
            return sum(jnp.mean(x**2) for x in net.apply({**variables, "params": params}, image, size))

        return jax.jit(jax.value_and_grad(loss))(variables["params"])

    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * np.abs(x).max()),
        value_and_gradient(net),
        value_and_gradient(net.clone(remat=True)),
    )


@pytest.mark.parametrize("train_norms", [False, True])
def test_norms_are_frozen_unless_asked(train_norms):
    net, variables = tiny(depths=(1, 1, 1), train_norms=train_norms)
    image, size = jnp.asarray(random_image(32, 32))[None], jnp.array([[32, 32]])

    def loss(params):
        return sum(jnp.mean(x**2) for x in net.apply({**variables, "params": params}, image, size))

    flat = jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(variables["params"]))
    for path, grad in flat:
        of_norm = "norm" in path[-2].key
        assert bool(jnp.any(grad != 0)) == (train_norms or not of_norm), path
