"""Training's forward and backward pass, compared with a literal one that builds and normalizes every window."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from fastmask_jax.geometry import all_windows, level_sizes
from fastmask_jax.models.fastmask import FastMask
from fastmask_jax.models.padding import mask_padding
from tests.plain_network import random_variables

PADDED = (64, 80)
SIZES = [(52, 76), (64, 36), (8, 80), (64, 80), (20, 20), (36, 60), (48, 64), (60, 28)]
SAMPLED = 6


def training_batch(count, strides, seed=0):
    """Returns `count` images in one bucket, with garbage in the padding, and windows with random labels."""
    rng = np.random.default_rng(seed)
    windows = np.zeros((2, count, SAMPLED, 3), np.int32)
    for b in range(count):
        every = all_windows(*SIZES[b], strides)
        windows[:, b] = every[rng.integers(0, len(every), (2, SAMPLED))]
    return {
        "image": jnp.asarray(rng.uniform(0, 255, (count, *PADDED, 3)), jnp.float32),
        "size": jnp.asarray(SIZES[:count], jnp.int32),
        "score_windows": jnp.asarray(windows[0]),
        "mask_windows": jnp.asarray(windows[1]),
        "keys": jax.vmap(lambda slot: jax.random.fold_in(jax.random.key(1), slot))(jnp.arange(count)),
        "labels": [
            jnp.asarray(rng.integers(0, 2, (count, SAMPLED, *shape)), jnp.float32) for shape in [(), (40, 40), (10, 10)]
        ],
    }


def cross_entropy(outputs, labels):
    return sum(jnp.mean(optax.sigmoid_binary_cross_entropy(x, y)) for x, y in zip(outputs, labels, strict=True))


def loss_and_state(network, variables, params, batch):
    """Returns the loss as computed in training, and the new running averages."""
    out, state = network.apply(
        {**variables, "params": params},
        batch["image"],
        batch["size"],
        batch["score_windows"],
        batch["mask_windows"],
        train=True,
        dropout_keys=batch["keys"],
        mutable=["batch_stats"],
    )
    return cross_entropy((out.scores, out.mask_logits, out.attention), batch["labels"]), state["batch_stats"]


def build_windows(level):
    """[h, w, C] → [(h + 1) * (w + 1), 10, 10, C]: crops of the map padded by five zeros."""
    around = jnp.pad(level, ((5, 5), (5, 5), (0, 0)))
    i, j = np.indices((level.shape[0] + 1, level.shape[1] + 1)).reshape(2, -1, 1, 1)
    r, c = np.indices((10, 10))
    return around[i + r, j + c]


def literal_loss(network, variables, params, batch):
    """Builds every window of every level and image, normalizes by their mean and variance, and selects some."""
    variables = {**variables, "params": params}
    levels = network.apply(variables, batch["image"], batch["size"], method="levels")
    windows, at = [], {}
    for b, size in enumerate(SIZES[: len(batch["image"])]):
        sizes = level_sizes(*size, network.strides)
        numbers = range(len(at), len(at) + len(all_windows(*size, network.strides)))
        at |= {(b, *w): n for n, w in zip(numbers, all_windows(*size, network.strides).tolist(), strict=True)}
        windows += [build_windows(x[b, :h, :w]) for x, (h, w) in zip(levels, sizes, strict=True)]
    windows = jnp.concatenate(windows)
    assert len(windows) == len(at)
    # One long float32 sum over all windows is off by 2e-5 under jax 0.7.2: each window's mean first.
    mean = jnp.mean(jnp.mean(windows, (1, 2)), 0)
    var = jnp.mean(jnp.mean((windows - mean) ** 2, (1, 2)), 0)
    norm = params["window_norm"]
    windows = (windows - mean) / jnp.sqrt(var + 1e-5) * norm["scale"] + norm["bias"]

    def pick(chosen):
        return jnp.stack([windows[np.array([at[b, *w] for w in ws])] for b, ws in enumerate(chosen.tolist())])

    scored, masked = pick(batch["score_windows"]), pick(batch["mask_windows"])
    scores = network.apply(variables, scored, None, batch["keys"], method=lambda m, *a: m.objectness(*a))
    outputs = network.apply(variables, masked, method=lambda m, x: m.mask(x))
    return cross_entropy((scores, *outputs), batch["labels"]), (mean, var)


def assert_same_gradient(got, want, relative):
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        difference = np.linalg.norm(np.asarray(a, np.float64) - b)
        assert difference <= relative * np.linalg.norm(b), (jax.tree_util.keystr(path), difference, np.linalg.norm(b))


@pytest.fixture(scope="module")
def literal(tiny_network):
    """Batch, and the literal ((loss, moments), gradients)."""
    network, variables = tiny_network
    batch = training_batch(3, network.strides)
    # Chosen windows are indices of the trace, not arguments of it.
    run = jax.jit(jax.value_and_grad(lambda p: literal_loss(network, variables, p, batch), has_aux=True))
    return batch, run(variables["params"])


@pytest.mark.parametrize("form", ["gather", "patches"])
def test_training_is_the_literal_one(tiny_network, literal, form):
    network, variables = tiny_network
    batch, ((want, moments), want_grad) = literal
    network = network.clone(train_form=form)
    run = jax.jit(jax.value_and_grad(lambda p, b: loss_and_state(network, variables, p, b), has_aux=True))
    (got, state), got_grad = run(variables["params"], batch)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    for name, moment in zip(("mean", "var"), moments, strict=True):
        np.testing.assert_allclose(state["window_norm"][name], moment, rtol=1e-5, atol=1e-6)
    trained = {"/".join(k.key for k in path) for path, g in jax.tree_util.tree_leaves_with_path(got_grad) if g.any()}
    assert {"lateral/kernel", "window_norm/scale", "window_norm/bias", "body/stem/kernel"} <= trained
    assert_same_gradient(got_grad, want_grad, 1e-5)


class OneConvolution(nn.Module):
    """A minimal body, because a step over devices takes long to compile."""

    strides = (16,)

    @nn.compact
    def __call__(self, image, size):
        x = nn.Conv(5, (16, 16), (16, 16), name="stem")(mask_padding(image / 100 - 1, size, 1))
        return (nn.relu(mask_padding(x, size, 16)),)


def test_several_devices_are_one_device_with_all_images():
    devices = jax.local_device_count()
    if devices == 1 or len(SIZES) % devices:
        pytest.skip(f"{len(SIZES)} images and {devices} device(s)")
    network = FastMask(OneConvolution(), (16, 32), 4, neck_hidden=3, mask_width=5, objectness_widths=(6, 7))
    batch = training_batch(8, network.strides)
    windows = batch["score_windows"]
    variables = random_variables(network, batch["image"], batch["size"], windows, windows)
    run = jax.jit(jax.value_and_grad(lambda p, b: loss_and_state(network, variables, p, b), has_aux=True))
    (want, want_state), want_grad = run(variables["params"], batch)

    split = network.clone(axis_name="device")

    def one_device(params, batch):
        of = jax.value_and_grad(lambda p: loss_and_state(split, variables, p, batch), has_aux=True)
        (loss, state), grads = of(params)
        return jax.lax.pmean((loss, grads), "device"), state

    run = jax.pmap(one_device, axis_name="device", in_axes=(None, 0))
    shares = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
    (got, got_grad), got_state = run(variables["params"], shares)
    np.testing.assert_allclose(got, np.full(devices, want), rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-5, atol=1e-6), got_state, want_state)
    assert_same_gradient(jax.tree.map(lambda g: g[-1], got_grad), want_grad, 1e-5)
