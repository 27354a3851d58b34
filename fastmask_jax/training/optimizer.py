"""The optimizer, its schedule in images seen, and what decays and moves at which rate (docs/network.md §2)."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from fastmask_jax.errors import InvalidInput


def learning_rate_schedule(optimizer: Mapping[str, Any], batch_size: int, total_images: int) -> optax.Schedule:
    """step → learning rate of everything but the body.

    `learning_rate` is that of a batch of `reference_batch` images; `batch_scaling` ("linear", "sqrt" or "none") takes
    it to other batches. It rises linearly over the first `warmup_images`, then falls by `drop_factor` after each of
    `drop_images` (schedule "step") or along half a cosine to zero at `total_images` (schedule "cosine").
    """
    peak = peak_learning_rate(optimizer, batch_size)

    def steps(images: int) -> int:
        return -(-images // batch_size)  # what has begun counts, as a run's last step does

    _choose("optimizer.schedule", optimizer["schedule"], ("step", "cosine"))
    warmup = steps(optimizer["warmup_images"])
    if optimizer["schedule"] == "cosine":
        after = optax.cosine_decay_schedule(peak, max(steps(total_images) - warmup, 1))
    else:
        drops: dict[int, float] = {}
        for at in map(steps, optimizer["drop_images"]):  # two drops may fall on one step of a large batch
            drops[at - warmup] = drops.get(at - warmup, 1.0) * optimizer["drop_factor"]
        after = optax.piecewise_constant_schedule(peak, drops)
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(peak / warmup, peak, warmup), after], [warmup])


def peak_learning_rate(optimizer: Mapping[str, Any], batch_size: int) -> float:
    """`learning_rate`, which is that of `reference_batch` images, for a batch of `batch_size` (`batch_scaling`)."""
    ratio = batch_size / optimizer["reference_batch"]
    scalings = {"linear": ratio, "sqrt": ratio**0.5, "none": 1.0}
    _choose("optimizer.batch_scaling", optimizer["batch_scaling"], scalings)
    return optimizer["learning_rate"] * scalings[optimizer["batch_scaling"]]


def _choose(key: str, value: str, allowed: Any) -> None:
    if value not in allowed:
        raise InvalidInput(f"{key}={value!r} is not one of {list(allowed)}")


def build_optimizer(
    optimizer: Mapping[str, Any], batch_size: int, total_images: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The transformation that a config's `optimizer` section describes, and its schedule.

    In order: clipping of the global norm (`clip_norm`, 0: none), the named rule with weight decay on all but norms, the
    schedule, the factors of the body (`body_factor`) and of all other biases but norms' (`bias_factor`). `name`
    "momentum" is the paper's SGD: the decay joins the gradient before `momentum` gathers it. "adam" is AdamW with
    first-moment decay `b1`. The state's form depends on the name alone, so that a run may go on with other settings.
    """
    schedule = learning_rate_schedule(optimizer, batch_size, total_images)
    clip, name = optimizer["clip_norm"], optimizer["name"]
    _choose("optimizer.name", name, ("momentum", "adam"))
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
    """True for every parameter that decays: all but the scales and shifts of norms."""
    return jax.tree_util.tree_map_with_path(lambda path, _: len(path) < 2 or "norm" not in path[-2].key, params)


def of_body(params: Any) -> Any:
    """True for the parameters of the body."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key == "body", params)


def other_biases(params: Any) -> Any:
    """True for the biases that are neither the body's nor a norm's."""

    def chosen(path: Any, _: Any) -> bool:
        return path[-1].key == "bias" and path[0].key != "body" and "norm" not in path[-2].key

    return jax.tree_util.tree_map_with_path(chosen, params)
