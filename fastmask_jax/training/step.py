"""Creates the training step, a pure function (state, batch) → (state, metrics), from the model and the optimizer."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from fastmask_jax.data.batches import TrainBatch
from fastmask_jax.models.build import initial_variables
from fastmask_jax.models.fastmask import FastMask
from fastmask_jax.training.losses import LossSpec, image_losses, objectness_attention_loss


@flax.struct.dataclass
class TrainState:
    """State of training; a pytree whose leaves may also be shapes or shardings."""

    step: Any  # int32[]: steps done
    params: Any
    frozen_stats: Any  # statistics of the frozen norms: measured or loaded once, never trained
    batch_stats: Any  # running averages of the window norm
    opt_state: Any
    average: Any = flax.struct.field(default_factory=dict)  # moving average of `params`; empty if none is kept

    @property
    def averaged_variables(self) -> dict[str, Any]:
        """Collections for inference, with averaged parameters if they are kept."""
        return {**self.variables, "params": self.average or self.params}

    @property
    def variables(self) -> dict[str, Any]:
        """Collections for applying the model."""
        return {"params": self.params, "frozen_stats": self.frozen_stats, "batch_stats": self.batch_stats}


class DeviceBatch(NamedTuple):
    """The part of a TrainBatch for the devices (image ids stay on the host); same shapes."""

    image: Any
    size: Any
    slot: Any
    score_windows: Any
    score_labels: Any
    score_weights: Any
    mask_windows: Any
    mask_weights: Any
    mask_targets: Any
    attention_targets: Any
    objectness_targets: Any


def on_device(batch: TrainBatch) -> DeviceBatch:
    """Drops the fields that stay on the host."""
    return DeviceBatch(*(getattr(batch, field) for field in DeviceBatch._fields))


Step = Callable[[TrainState, DeviceBatch], tuple[TrainState, Mapping[str, Float[Array, ""]]]]


def create_state(
    model: FastMask, optimizer: optax.GradientTransformation, seed: int, averaged: bool = False
) -> TrainState:
    """Returns the state before the first step; with `averaged`, including a moving average of the parameters."""
    variables = initial_variables(model, seed)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        frozen_stats=variables["frozen_stats"],
        batch_stats=variables["batch_stats"],
        opt_state=jax.jit(optimizer.init)(variables["params"]),
        average=variables["params"] if averaged else {},
    )


def make_step(
    model: FastMask, optimizer: optax.GradientTransformation, spec: LossSpec, seed: int, average_decay: float = 0.0
) -> Step:
    """Creates the step of one device; gradients, moments and metrics are summed over `model.axis_name`, if set.

    Images without a sampled positive have weight 0 (docs/network.md §2), all others equal weights on every device: D
    devices with one image each take the same step as one device with D images. Dropout keys are functions of (seed,
    step, slot of the image), so they do not depend on the devices either.

    `average_decay` is the decay of the state's moving average, which adapts faster in the first steps.
    """
    axis = model.axis_name

    def total(tree: Any) -> Any:
        return tree if axis is None else jax.lax.psum(tree, axis)

    def step(state: TrainState, batch: DeviceBatch) -> tuple[TrainState, Mapping[str, jax.Array]]:
        at_step = jax.random.fold_in(jax.random.key(seed), state.step)
        keys = jax.vmap(lambda slot: jax.random.fold_in(at_step, slot))(batch.slot)
        trained_on = jnp.any(batch.mask_weights > 0, axis=1).astype(jnp.float32)  # [B]
        images = jnp.maximum(total(jnp.sum(trained_on)), 1.0)

        def loss(params: Any) -> tuple[jax.Array, Any]:
            seen, changed = model.apply(
                {**state.variables, "params": params},
                batch.image,
                batch.size,
                batch.score_windows,
                batch.mask_windows,
                train=True,
                dropout_keys=keys,
                mutable=["batch_stats"],
            )
            losses = image_losses(
                seen.scores,
                seen.mask_logits,
                seen.attention,
                batch.score_labels,
                batch.score_weights,
                batch.mask_targets,
                batch.attention_targets,
                batch.mask_weights,
                spec,
            )
            means = {name: jnp.sum(value * trained_on) / images for name, value in losses._asdict().items()}
            means["loss"] = (
                spec.objectness * means["objectness"]
                + spec.mask * means["mask"]
                + spec.attention * means["attention"]
                + spec.dice * means["dice"]
            )
            if seen.objectness_attention:
                attended = objectness_attention_loss(seen.objectness_attention, batch.objectness_targets)
                means["objectness_attention"] = jnp.sum(attended * trained_on) / images
                means["loss"] += spec.objectness_attention * means["objectness_attention"]
            return means["loss"], (means, changed["batch_stats"])

        gradients, (metrics, batch_stats) = jax.grad(loss, has_aux=True)(state.params)
        gradients, metrics = total((gradients, metrics))  # each device holds its images' share of the mean
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics["gradient_norm"] = optax.tree.norm(gradients)  # before clipping
        metrics["update_norm"] = optax.tree.norm(updates)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(average_decay, (1.0 + state.step) / (10.0 + state.step))
        new = state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            average=optax.incremental_update(params, state.average, 1 - decay) if state.average else {},
        )
        return new, metrics

    return step


def calibrate_frozen_stats(model: FastMask, state: TrainState, batch: DeviceBatch) -> TrainState:
    """Measures statistics of the body's frozen norms on one batch of images, for a body with random weights."""
    measured = jax.jit(
        lambda variables, image, size: model.clone(axis_name=None).apply(
            variables, image, size, method="levels", mutable=["frozen_stats"]
        )[1]["frozen_stats"]
    )(state.variables, batch.image, batch.size)
    return state.replace(frozen_stats=measured)
