"""The training step of a network with objectness attention, from records to changed weights."""

import jax
import jax.numpy as jnp
import numpy as np

from fastmask_jax.geometry import all_windows
from fastmask_jax.models.build import build_model
from fastmask_jax.training.losses import LossSpec
from fastmask_jax.training.optimizer import build_optimizer
from fastmask_jax.training.step import TrainState, make_step, on_device
from tests import tiny
from tests.plain_network import random_variables


def test_a_step_learns_the_attention_of_each_level(tmp_path_factory):
    """The loss is the sum of the other parts and the weighted attention loss over all levels, in float64."""
    data = tiny.dataset(tmp_path_factory.getbasetemp())
    changed = {
        "model__objectness_attention_width": 3,
        "model__strides": (4, 8, 12),
        "losses__objectness_attention": 0.7,
    }
    settings = tiny.config(data, **changed)
    batch = tiny.batch(settings, 2)
    every = all_windows(*batch.image.shape[1:3], settings.model.strides)
    assert batch.objectness_targets.shape == (2, len(every))
    model = build_model(settings.model.to_dict())
    windows = jnp.asarray(batch.mask_windows)
    variables = random_variables(model, jnp.asarray(batch.image), jnp.asarray(batch.size), windows, windows)
    optimizer, _ = build_optimizer(settings.optimizer.to_dict(), 2, 10)
    state = TrainState(np.int32(0), **variables, opt_state=optimizer.init(variables["params"]))
    step = make_step(model, optimizer, LossSpec(**settings.losses), 0)

    def both(state, batch):
        seen = model.apply(state.variables, batch.image, batch.size, batch.score_windows, batch.mask_windows)
        return step(state, batch), seen.objectness_attention

    (new, metrics), logits = jax.jit(both)(state, on_device(batch))
    losses = []
    for b in range(2):
        flat = np.concatenate([np.asarray(level[b], np.float64).ravel() for level in logits])
        target, loss = batch.objectness_targets[b], 0.0
        for level in range(3):
            counted = (every[:, 0] == level) & (target < 2)
            entropy = np.logaddexp(0, np.where(target[counted] == 1, -flat[counted], flat[counted]))
            loss += entropy.mean() if counted.any() else 0.0
        losses.append(loss)
    assert min(losses) > 0
    np.testing.assert_allclose(metrics["objectness_attention"], np.mean(losses), rtol=1e-4)
    parts = {
        name: settings.losses[name] for name in ("objectness", "mask", "attention", "dice", "objectness_attention")
    }
    np.testing.assert_allclose(metrics["loss"], sum(w * metrics[name] for name, w in parts.items()), rtol=1e-5)
    taught = {level for level in range(3) if ((every[:, 0] == level) & (batch.objectness_targets < 2)).any()}
    for level, stride in enumerate(settings.model.strides):
        for n in (1, 2):
            path = "objectness_attention", f"level{stride}_conv{n}"
            before, after = (x["params"][path[0]][path[1]]["bias"] for x in (state.variables, new.variables))
            assert np.any(before != after) or level not in taught
    assert taught
