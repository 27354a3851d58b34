"""Builds the optimizer, its schedule in images seen, weight decay and learning rate factors (docs/network.md §2)."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from fastmask_jax.config_schema import check_section


def learning_rate_schedule(optimizer: Mapping[str, Any], batch_size: int, total_images: int) -> optax.Schedule:
    """Returns the schedule: step → learning rate of all parameters except the body's.

    `learning_rate` refers to a batch of `reference_batch` images; `batch_scaling` ("linear", "sqrt" or "none") scales
    it to other batches. It rises linearly over the first `warmup_images`, then falls by `drop_factor` after each of
    `drop_images` (schedule "step") or along half a cosine to zero at `total_images` (schedule "cosine").
    """
    check_section("optimizer", optimizer)
    peak = peak_learning_rate(optimizer, batch_size)

    def steps(images: int) -> int:
        return -(-images // batch_size)  # rounds up, like the number of steps of a run

    warmup = steps(optimizer["warmup_images"])
    if optimizer["schedule"] == "cosine":
        after = optax.cosine_decay_schedule(peak, max(steps(total_images) - warmup, 1))
    else:
        drops: dict[int, float] = {}
        for at in map(steps, optimizer["drop_images"]):  # with large batches, two drops may fall on the same step
            drops[at - warmup] = drops.get(at - warmup, 1.0) * optimizer["drop_factor"]
        after = optax.piecewise_constant_schedule(peak, drops)
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(peak / warmup, peak, warmup), after], [warmup])


def peak_learning_rate(optimizer: Mapping[str, Any], batch_size: int) -> float:
    """Scales `learning_rate`, which refers to `reference_batch` images, to `batch_size` by `batch_scaling`."""
    ratio = batch_size / optimizer["reference_batch"]
    scalings = {"linear": ratio, "sqrt": ratio**0.5, "none": 1.0}
    return optimizer["learning_rate"] * scalings[optimizer["batch_scaling"]]


def build_optimizer(
    optimizer: Mapping[str, Any], batch_size: int, total_images: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Builds the transformation that a config's `optimizer` section describes, and its schedule.

    In order: clipping of the global norm (`clip_norm`, 0: none), the named rule with weight decay on all parameters
    except norms, the schedule, and the factors of the body (`body_factor`) and of all other biases except norms'
    (`bias_factor`). "momentum" is the paper's SGD: the decay is added to the gradient before momentum. "adam" is AdamW
    with first-moment decay `b1`. The structure of the state depends only on the name, so a run can resume with other
    settings.
    """
    schedule = learning_rate_schedule(optimizer, batch_size, total_images)
    clip, name = optimizer["clip_norm"], optimizer["name"]
    decay = optax.add_decayed_weights(optimizer["weight_decay"], decayed)
    if name == "momentum":
        rule = decay, optax.trace(optimizer["momentum"])
    else:
        rule = optax.scale_by_adam(optimizer["b1"]), decay
    chain = optax.chain(
        optax.clip_by_global_norm(clip) if clip else optax.identity(),
        *rule,
        optax.scale_by_learning_rate(schedule),
        optax.masked(optax.scale(optimizer["body_factor"]), of_body),
        optax.masked(optax.scale(optimizer["bias_factor"]), other_biases),
    )
    return chain, schedule


def decayed(params: Any) -> Any:
    """Returns True for every parameter with weight decay: all except scales and shifts of norms."""
    return jax.tree_util.tree_map_with_path(lambda path, _: len(path) < 2 or "norm" not in path[-2].key, params)


def of_body(params: Any) -> Any:
    """Returns True for the parameters of the body."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key == "body", params)


def other_biases(params: Any) -> Any:
    """Returns True for biases that belong neither to the body nor to a norm."""

    def chosen(path: Any, _: Any) -> bool:
        return path[-1].key == "bias" and path[0].key != "body" and "norm" not in path[-2].key

    return jax.tree_util.tree_map_with_path(chosen, params)
