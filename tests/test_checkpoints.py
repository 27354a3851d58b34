"""Checkpoints: restoring on any number of devices, which checkpoints are kept, and states that do not fit."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from fastmask_jax.training.devices import replicate
from fastmask_jax.training.step import TrainState
from fastmask_jax.weights.checkpoints import BEST, Checkpoints, save_config

OPTIMIZER = optax.chain(optax.identity(), optax.trace(0.9), optax.scale_by_learning_rate(lambda step: 0.1))
CONFIG = {"seed": 0, "model": {"strides": (8, 12), "neck": "residual"}}


def state_at(step, width=3):
    params = {"body": {"conv": {"kernel": jnp.full((2, width), step + 0.1)}}, "lateral": {"bias": jnp.ones(width)}}
    opt_state = OPTIMIZER.update(jax.tree.map(jnp.ones_like, params), OPTIMIZER.init(params))[1]
    return TrainState(jnp.int32(step), params, {"m": jnp.arange(3.0)}, {"w": jnp.float32(step / 3)}, opt_state)


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def saved(workdir, *steps, **options):
    checkpoints = Checkpoints(workdir, CONFIG, **options)
    for step in steps:
        number, reading = step if isinstance(step, tuple) else (step, None)
        checkpoints.save(state_at(number), None if reading is None else {BEST: reading, "other": 1.0})
    checkpoints.wait()
    return checkpoints


@pytest.mark.parametrize("spread", [replicate, lambda state: state], ids=["from 8 devices", "from 1 device"])
def test_what_is_saved_is_restored(tmp_path, spread):
    """Includes empty and named parts of the optimizer's state; restores on one device, then replicates."""
    state = state_at(5)
    with_checkpoints = Checkpoints(tmp_path, CONFIG)
    with_checkpoints.save(spread(state))
    with_checkpoints.close()
    again = Checkpoints(tmp_path, CONFIG)
    assert again.latest == 5
    got = again.restore(jax.eval_shape(lambda: state_at(0)), 5)
    assert_same(got, state)
    assert all(x.devices() == {jax.local_devices()[0]} for x in jax.tree.leaves(got))
    assert_same(replicate(got), state)
    again.close()


def test_variables_alone(tmp_path):
    saved(tmp_path, 1, 2).close()
    reading = Checkpoints(tmp_path)
    got = reading.restore(jax.eval_shape(lambda: state_at(0)).variables, 1)
    assert_same(got, state_at(1).variables)


def test_latest_and_best_are_kept(tmp_path):
    checkpoints = saved(tmp_path, (1, 0.1), (2, 0.4), 3, (4, 0.2), 5, 6, keep=2)
    assert checkpoints.steps == [2, 5, 6]
    assert (checkpoints.latest, checkpoints.best) == (6, 2)
    checkpoints.close()
    reading = Checkpoints(tmp_path)
    assert (reading.latest, reading.best, reading.steps) == (6, 2, [2, 5, 6])


def test_without_an_evaluation_the_latest_is_best(tmp_path):
    checkpoints = saved(tmp_path, 1, 2, (3, float("nan")), 4, keep=2)
    assert (checkpoints.steps, checkpoints.best) == ([3, 4], 4)
    checkpoints.close()


def test_a_step_is_saved_once(tmp_path):
    saved(tmp_path, 1, 2, 2).close()
    assert Checkpoints(tmp_path).steps == [1, 2]


def test_what_does_not_fit_is_named(tmp_path):
    saved(tmp_path, 1).close()
    reading = Checkpoints(tmp_path)
    with pytest.raises(ValueError) as caught:
        reading.restore(jax.eval_shape(lambda: state_at(0, width=4)), 1)
    line = str(caught.value)
    assert "checkpoints/1 does not fit" in line and "\n" not in line
    assert "params/body/conv/kernel is (2, 3) in the checkpoint and (2, 4) in the network" in line
    more = state_at(0).variables
    more["params"]["extra"] = jnp.zeros(2)
    with pytest.raises(ValueError, match=r"params/extra is absent in the checkpoint and \(2,\) in the network"):
        reading.restore(more, 1)


def test_changed_settings_are_listed(tmp_path):
    saved(tmp_path, 1).close()
    now = {"seed": 0, "model": {"strides": [8, 12], "neck": "max", "head": "standard"}}
    other = Checkpoints(tmp_path, now)
    assert other.changes(1) == ["model.head: absent → standard", "model.neck: residual → max"]
    other.close()


def test_a_save_cut_short_leaves_the_one_before(tmp_path):
    saved(tmp_path, 1).close()
    half = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "state").write_text("half")
    checkpoints = Checkpoints(tmp_path, CONFIG)
    assert checkpoints.latest == 1
    checkpoints.save(state_at(2))
    checkpoints.close()
    assert Checkpoints(tmp_path).steps == [1, 2]


def test_nothing_is_warned_of(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        saved(tmp_path, 1).close()
        Checkpoints(tmp_path).close()
        logging.getLogger("absl").warning("another thing")
    assert [record.getMessage() for record in caplog.records] == ["another thing"]


def test_config_file(tmp_path):
    config = ConfigDict(CONFIG)
    save_config(tmp_path / "new", config)
    assert json.loads((tmp_path / "new" / "config.json").read_text()) == json.loads(json.dumps(CONFIG))


def test_inference_restores_the_averaged_weights(tmp_path):
    state = state_at(1)
    state = state.replace(average=jax.tree.map(lambda x: x + 5, state.params))
    checkpoints = Checkpoints(tmp_path, CONFIG)
    checkpoints.save(state)
    checkpoints.close()
    again = Checkpoints(tmp_path)
    assert_same(again.restore(jax.eval_shape(lambda: state), 1), state)
    got = again.restore(jax.eval_shape(lambda: state.variables), 1, averaged=True)
    assert_same(got["params"], state.average)
    again.close()
