"""Schedules by hand, weight decay, and two updates compared with the formulas of SGD with momentum and AdamW."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fastmask_jax.configuration import load_config
from fastmask_jax.models.build import build_model, initial_variables
from fastmask_jax.training.optimizer import build_optimizer, decayed, learning_rate_schedule, of_body, other_biases
from tests.tiny import ROOT

SETTINGS = {
    "name": "momentum",
    "learning_rate": 0.1,
    "reference_batch": 2,
    "batch_scaling": "linear",
    "schedule": "step",
    "warmup_images": 0,
    "drop_images": (40, 60),
    "drop_factor": 0.1,
    "momentum": 0.9,
    "b1": 0.9,
    "weight_decay": 0.01,
    "clip_norm": 0.0,
    "body_factor": 1.0,
    "bias_factor": 1.0,
}


def rates(batch_size, steps, total=100, **changed):
    schedule = learning_rate_schedule(SETTINGS | changed, batch_size, total)
    return np.array([float(schedule(step)) for step in steps])


def test_step_schedule_drops_after_the_images():
    # Ten images a step: step 4 is the first that sees image 40, step 6 image 60.
    np.testing.assert_allclose(
        rates(10, [0, 3, 4, 5, 6, 9], reference_batch=10), [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6
    )


def test_two_drops_on_one_step_both_count():
    np.testing.assert_allclose(rates(100, [0, 1], reference_batch=100), [0.1, 0.001], rtol=1e-6)


@pytest.mark.parametrize(("scaling", "peak"), [("linear", 0.4), ("sqrt", 0.2), ("none", 0.1)])
def test_batch_scaling(scaling, peak):
    np.testing.assert_allclose(rates(8, [0], batch_scaling=scaling), [peak], rtol=1e-6)


def test_warm_up_then_drops_at_the_same_images():
    got = rates(10, range(7), reference_batch=10, warmup_images=20)
    np.testing.assert_allclose(got, [0.05, 0.075, 0.1, 0.1, 0.01, 0.01, 0.001], rtol=1e-6)


def test_cosine_ends_with_the_images():
    got = rates(10, range(13), total=115, reference_batch=10, warmup_images=20, schedule="cosine")
    half = 0.05 * (1 + np.cos(np.pi * np.arange(11) / 10))  # twelve steps, two of them warm-up
    np.testing.assert_allclose(got, [0.05, 0.075, *half], rtol=1e-5, atol=1e-9)
    assert got[11] > 0  # the last step of 115 images still learns


@pytest.mark.parametrize(("key", "value"), [("schedule", "linear"), ("batch_scaling", "cubic")])
def test_unknown_words_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"optimizer.{key}='{value}' is not one of \["):
        rates(1, [0], **{key: value})


def test_scales_and_shifts_of_norms_alone_do_not_decay():
    model = build_model(load_config(str(ROOT / "configs/coco.py")).model.to_dict())
    params = jax.eval_shape(lambda: initial_variables(model, 0))["params"]
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="/"): decays
        for path, decays in jax.tree_util.tree_leaves_with_path(decayed(params))
    }
    blocks = [f"stage{s}_block{n}" for s, count in ((2, 3), (3, 4), (4, 6)) for n in range(1, count + 1)]
    norms = {"body/stem_norm", "window_norm", "mask/norm"}
    norms |= {f"body/{block}/norm{n}" for block in blocks for n in (1, 2, 3)}
    norms |= {f"body/stage{s}_block1/project_norm" for s in (2, 3, 4)}
    assert {name for name, decays in flat.items() if not decays} == {
        f"{norm}/{part}" for norm in norms for part in ("scale", "bias")
    }
    assert flat["body/stem/bias"] and flat["objectness/fc1/bias"] and flat["mask/fc1/kernel"]
    body = {
        jax.tree_util.keystr(p, simple=True) for p, of in jax.tree_util.tree_leaves_with_path(of_body(params)) if of
    }
    assert body == {name for name in flat_names(params) if name.startswith("body")}
    faster = {
        jax.tree_util.keystr(p, simple=True, separator="/")
        for p, of in jax.tree_util.tree_leaves_with_path(other_biases(params))
        if of
    }
    heads = {f"{head}/bias" for head in ("objectness/fc1", "objectness/fc2", "objectness/score", "mask/attention")}
    assert faster == heads | {"mask/fc2/bias", "lateral/bias", "neck/conv1/bias", "neck/conv2/bias"}


def flat_names(tree):
    return [jax.tree_util.keystr(path, simple=True) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


PARAMS = {
    "body": {"conv": {"kernel": jnp.array([1.0, -2.0])}, "norm1": {"scale": jnp.array([3.0])}},
    "lateral": {"kernel": jnp.array([0.5])},
}
GRADIENTS = {
    "body": {"conv": {"kernel": jnp.array([3.0, 0.0])}, "norm1": {"scale": jnp.array([0.0])}},
    "lateral": {"kernel": jnp.array([4.0])},
}


@pytest.mark.parametrize("clip", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_two_updates_by_hand(clip, factor):
    optimizer, _ = build_optimizer(SETTINGS | {"clip_norm": clip, "body_factor": factor}, 2, 100)
    state, params = optimizer.init(PARAMS), PARAMS
    for _ in range(2):
        updates, state = optimizer.update(GRADIENTS, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    shrink = 1 / 5 if clip == 1.0 else 1.0  # the norm of all gradients together is 5
    want = {}
    for name, value, gradient, decay, rate in (
        ("conv0", 1.0, 3.0, 0.01, 0.1 * factor),
        ("conv1", -2.0, 0.0, 0.01, 0.1 * factor),
        ("norm", 3.0, 0.0, 0.0, 0.1 * factor),
        ("lateral", 0.5, 4.0, 0.01, 0.1),
    ):
        velocity = 0.0
        for _ in range(2):
            velocity = 0.9 * velocity + gradient * shrink + decay * value
            value -= rate * velocity
        want[name] = value
    np.testing.assert_allclose(params["body"]["conv"]["kernel"], [want["conv0"], want["conv1"]], rtol=1e-6)
    np.testing.assert_allclose(params["body"]["norm1"]["scale"], [want["norm"]], rtol=1e-6)
    np.testing.assert_allclose(params["lateral"]["kernel"], [want["lateral"]], rtol=1e-6)


def test_two_updates_of_adam_by_hand():
    """AdamW: bias-corrected moments, and decoupled weight decay."""
    optimizer, _ = build_optimizer(SETTINGS | {"name": "adam", "body_factor": 0.5}, 2, 100)
    state, params = optimizer.init(PARAMS), PARAMS
    value, first, second = 1.0, 0.0, 0.0
    for update, gradient in enumerate((3.0, -1.0), start=1):
        gradients = GRADIENTS | {"body": GRADIENTS["body"] | {"conv": {"kernel": jnp.array([gradient, 0.0])}}}
        updates, state = optimizer.update(gradients, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        step = first / (1 - 0.9**update) / (np.sqrt(second / (1 - 0.999**update)) + 1e-8)
        value -= 0.1 * 0.5 * (step + 0.01 * value)
    np.testing.assert_allclose(params["body"]["conv"]["kernel"][0], value, rtol=1e-5)
    np.testing.assert_allclose(params["body"]["norm1"]["scale"], 3.0)  # no gradient, no decay


def test_biases_outside_the_body_have_a_rate_of_their_own():
    params = {"body": {"conv": {"bias": jnp.ones(1)}}, "lateral": {"kernel": jnp.ones(1), "bias": jnp.ones(1)}}
    optimizer, _ = build_optimizer(SETTINGS | {"weight_decay": 0.0, "body_factor": 0.25, "bias_factor": 2.0}, 2, 100)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates["body"]["conv"]["bias"], -0.1 * 0.25, rtol=1e-6)
    np.testing.assert_allclose(updates["lateral"]["kernel"], -0.1, rtol=1e-6)
    np.testing.assert_allclose(updates["lateral"]["bias"], -0.1 * 2.0, rtol=1e-6)


def test_the_state_has_one_form_whatever_the_settings():
    """A run can resume with clipping, another schedule, or another learning rate for the body."""
    forms = set()
    for changed in (
        {},
        {"clip_norm": 5.0},
        {"body_factor": 0.1, "bias_factor": 2.0},
        {"schedule": "cosine", "warmup_images": 10},
    ):
        optimizer, _ = build_optimizer(SETTINGS | changed, 2, 100)
        forms.add(tuple(flat_names(optimizer.init(PARAMS))))
    assert len(forms) == 1
