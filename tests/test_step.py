"""The step on several devices and on one: what it changes, what it does not change, and that it learns."""

from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from fastmask_jax.errors import InvalidInput
from fastmask_jax.models.build import build_model
from fastmask_jax.training.devices import AXIS, check_batch_size, map_over_devices, replicate, shared_batch_size, split
from fastmask_jax.training.losses import LossSpec
from fastmask_jax.training.optimizer import build_optimizer
from fastmask_jax.training.step import TrainState, calibrate_frozen_stats, make_step, on_device
from tests import tiny
from tests.plain_network import random_variables

IMAGES = 8
DEVICES = jax.local_device_count()
UNSHARED = f"{IMAGES} images and {DEVICES} device(s)" if DEVICES == 1 or IMAGES % DEVICES else ""  # reason to skip


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(settings, batch of 8 images, state with measured statistics as NumPy arrays), the body's norms frozen."""
    settings = tiny.config(
        tiny.dataset(tmp_path_factory.getbasetemp()), model__body__train_norms=False, train__batch_size=IMAGES
    )
    assert settings.model.dropout == 0.5
    batch = tiny.batch(settings, IMAGES)
    model = build_model(settings.model.to_dict())
    device_batch = jax.tree.map(jnp.asarray, on_device(batch))
    windows = jnp.zeros((1, 1, 3), jnp.int32)
    drawn = random_variables(model, device_batch.image[:1], device_batch.size[:1], windows, windows)
    state = TrainState(np.int32(0), **drawn, opt_state=optimizer_of(settings).init(drawn["params"]))
    return settings, batch, jax.device_get(calibrate_frozen_stats(model, state, device_batch))


def optimizer_of(settings):
    return build_optimizer(settings.optimizer.to_dict(), IMAGES, 400)[0]


def step_of(settings, axis):
    model = build_model(settings.model.to_dict(), axis_name=axis)
    return make_step(model, optimizer_of(settings), LossSpec(**settings.losses), settings.seed)


@pytest.fixture(scope="module")
def mapped(prepared):
    if UNSHARED:
        pytest.skip(UNSHARED)
    return map_over_devices(step_of(prepared[0], AXIS))


@pytest.fixture(scope="module")
def alone(prepared):
    return jax.jit(step_of(prepared[0], None))


def leaves(tree):
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in flat}


@contextmanager
def float64():
    """Makes the package compute in float64 instead of float32: different orders of a sum then differ by about 1e-15.

    In float32 they differ by 1e-7, and by more if large terms cancel or if rounding moves a ReLU's input across zero,
    which no bound could distinguish from a small error.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jnp, "float32", jnp.float64)
        jax.config.update("jax_enable_x64", True)
        try:
            yield
        finally:
            jax.config.update("jax_enable_x64", False)


def shard_mapped(step):
    """Maps the same step over the same axis without `pmap`, as devices.py could."""
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    specs = {"in_specs": (PartitionSpec(), PartitionSpec(AXIS)), "out_specs": PartitionSpec()}
    mapped = jax.jit(jax.shard_map(step, mesh=mesh, check_vma=False, **specs))
    return lambda state, batch: mapped(
        state, jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), batch)
    )


@pytest.mark.skipif(bool(UNSHARED), reason=UNSHARED)
def test_several_devices_take_the_step_of_one(prepared):
    settings, batch, start = prepared
    start = jax.tree.map(lambda x: np.asarray(x, np.float64) if np.result_type(x) == np.float32 else x, start)
    batch = on_device(batch)

    def step(axis):
        model = build_model(settings.model.to_dict(), axis_name=axis)
        model = model.clone(dtype=jnp.float64, body=model.body.clone(dtype=jnp.float64))
        return make_step(model, optimizer_of(settings), LossSpec(**settings.losses), settings.seed)

    with float64():
        alone, mapped = jax.jit(step(None)), [map_over_devices(step(AXIS)), shard_mapped(step(AXIS))]
        one, several = start, [replicate(start) for _ in mapped]
        for _ in range(3):
            one, want = alone(one, batch)
            for n, take in enumerate(mapped):
                several[n], got = take(several[n], split(batch))
                assert_close(got, want)
                assert_close(several[n], one)
    assert int(one.step) == 3


def assert_close(got, want):
    """Compares every array to twelve digits of its norm, which needs float64."""
    got, want = leaves(got), leaves(want)
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name].dtype == value.dtype and value.dtype != np.float32, name
        difference = np.linalg.norm(got[name].astype(np.float64) - value)
        assert difference <= 1e-12 * np.linalg.norm(value), (name, difference)


def test_frozen_norms_stay_and_all_else_moves(prepared, alone):
    _, batch, start = prepared
    state, metrics = alone(start, on_device(batch))
    before, after = leaves(start), leaves(state)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    stays = {n for n in before if n.startswith("frozen_stats/")}
    stays |= {n for n in before if n.startswith("params/body/") and "norm" in n.split("/")[-2]}
    assert not moved & stays
    parameters = {n for n in before if n.startswith("params/")} - stays
    assert moved >= parameters, parameters - moved
    assert {"step", "batch_stats/window_norm/mean", "batch_stats/window_norm/var", "params/mask/norm/scale"} <= moved
    updates = [after[n].astype(np.float64) - before[n] for n in parameters]
    np.testing.assert_allclose(metrics["update_norm"], np.sqrt(sum(np.sum(u**2) for u in updates)), rtol=1e-3)


def test_state_is_donated_and_nothing_compiles_twice(prepared, mapped):
    _, batch, start = prepared
    state = replicate(start)
    first, _ = mapped(state, split(on_device(batch)))
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
    other = batch._replace(image=255 - batch.image, slot=batch.slot + 1)
    with tiny.compilations() as compiled:
        for one in (batch, other):
            first, metrics = mapped(first, split(on_device(one)))
        jax.block_until_ready(metrics)
    assert not compiled


def test_dropout_follows_seed_step_and_slot(prepared, alone):
    _, batch, start = prepared
    loss = lambda state, batch: float(alone(state, on_device(batch))[1]["objectness"])  # noqa: E731
    want = loss(start, batch)
    assert loss(start, batch) == want
    assert loss(start, batch._replace(slot=batch.slot + IMAGES)) != want
    assert loss(start.replace(step=start.step + 1), batch) != want


def test_loss_falls_on_one_batch(prepared, mapped):
    _, batch, start = prepared
    state, losses = replicate(start), []
    for _ in range(30):
        state, metrics = mapped(state, split(on_device(batch)))
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < 0.9 * losses[0] and np.isfinite(losses).all()


def test_an_image_without_positives_weighs_nothing(prepared, alone):
    """Its labels count neither for objectness nor for the number of images in the mean."""
    _, batch, start = prepared
    blank = batch.mask_weights.copy()
    blank[-1] = 0
    silent = batch._replace(mask_weights=blank)
    labels = batch.score_labels.copy()
    labels[-1] = 1 - labels[-1]
    (a, counted), (b, _) = (alone(start, on_device(one)) for one in (silent, silent._replace(score_labels=labels)))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    _, all_counted = alone(start, on_device(batch))
    last = np.zeros_like(batch.mask_weights)
    last[-1] = batch.mask_weights[-1]
    _, only_last = alone(start, on_device(batch._replace(mask_weights=last)))
    np.testing.assert_allclose(8 * all_counted["mask"] - only_last["mask"], 7 * counted["mask"], rtol=1e-5)


@pytest.mark.parametrize("images", [1, 3, 8, 12])
def test_a_batch_grows_to_what_the_devices_can_share(images):
    size = shared_batch_size(images)
    assert size % DEVICES == 0 and images <= size < images + DEVICES
    check_batch_size(size)
    if DEVICES > 1:
        with pytest.raises(InvalidInput, match=f"a batch of {size + 1} images, which {DEVICES} devices cannot share"):
            check_batch_size(size + 1)


def test_moving_average_follows_the_weights(prepared):
    """With decay .9, the first steps use (1 + n) / (10 + n), so that the average forgets the initial weights."""
    settings, batch, start = prepared
    step = jax.jit(
        make_step(build_model(settings.model.to_dict()), optimizer_of(settings), LossSpec(**settings.losses), 0, 0.15)
    )
    state = start.replace(average=start.params)
    want = jax.tree.map(np.float64, start.params)
    for n in range(3):
        state, _ = step(state, on_device(batch))
        decay = min(0.15, (1 + n) / (10 + n))
        want = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * np.float64(p), want, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.average, want)
    assert state.averaged_variables["params"] is state.average and start.averaged_variables["params"] is start.params
