"""Operations and memory of configs/coco.py by XLA's analyses, against counts by hand, layer by layer.

XLA does not count what a convolution multiplies with its zero padding, up to 5 % at these sizes. These tests replace
measurements on accelerators where none is at hand: a layer computed twice, a window built for nothing or one more copy
of every activation would appear here.
"""

from math import ceil

import jax
import jax.numpy as jnp

from fastmask_jax.configuration import load_config
from fastmask_jax.models.build import build_model, initial_variables
from fastmask_jax.training.losses import LossSpec
from fastmask_jax.training.optimizer import build_optimizer
from fastmask_jax.training.step import DeviceBatch, create_state, make_step
from tests import tiny

SIZE = (608, 800)
SCORED, MASKED, COUNT = 64, 64, 1000


def layers(depths: tuple[int, int, int] = (3, 4, 6)) -> tuple[list[tuple[str, int, int]], dict[int, tuple[int, int]]]:
    """Returns (name, multiplications, outputs) of every layer before the heads, and the cells of each level, by hand.

    ResNet-50 with the stride on the first 1x1 (docs/network.md §1), two streams, residual necks, 1x1 to 128 channels.
    """
    found: list[tuple[str, int, int]] = []

    def layer(name: str, at: int, kernel: int, inputs: int, outputs: int) -> None:
        cells = ceil(SIZE[0] / at) * ceil(SIZE[1] / at)
        found.append((name, cells * kernel**2 * inputs * outputs, cells * outputs))

    def stage(name: str, at: int, width: int, inputs: int, blocks: int) -> None:
        for n in range(blocks):
            first = inputs if n == 0 else 4 * width
            layer(f"{name}.{n}.1", at, 1, first, width)
            layer(f"{name}.{n}.2", at, 3, width, width)
            layer(f"{name}.{n}.3", at, 1, width, 4 * width)
            if n == 0:
                layer(f"{name}.{n}.shortcut", at, 1, inputs, 4 * width)

    layer("stem", 2, 7, 3, 64)
    stage("stage2", 4, 64, 64, depths[0])
    stage("stage3", 8, 128, 256, depths[1])
    for first, last in ((16, 128), (24, 96)):
        stage(f"stream{first}", first, 256, 512, depths[2])
        at = first
        while at < last:
            layer(f"neck{at}.1", at, 3, 1024, 256)
            layer(f"neck{at}.2", at, 1, 256, 1024)
            at *= 2
    levels = {at: (ceil(SIZE[0] / at), ceil(SIZE[1] / at)) for at in (16, 24, 32, 48, 64, 96, 128)}
    for at in levels:
        layer(f"level{at}", at, 1, 1024, 128)
    return found, levels


def head_multiplications(scored: int, masked: int) -> tuple[int, int]:
    """Returns the multiplications of the objectness head's first layer, and of all other layers of both heads."""
    window = 10 * 10 * 128
    objectness = scored * (512 * 1024 + 1024)
    masks = masked * (window * 100 + window * 512 + 512 * 40 * 40)
    return scored * window * 512, objectness + masks


def described(depths: tuple[int, int, int] = (3, 4, 6)):
    """Returns configs/coco.py, its network with these depths, and the shapes of its variables."""
    config = load_config(str(tiny.ROOT / "configs" / "coco.py"), [f"--config.model.body.depths={depths}"])
    model = build_model(config.model.to_dict())
    return config, model, jax.eval_shape(lambda: initial_variables(model, 0))


def lowered_step(depths: tuple[int, int, int] = (3, 4, 6)):
    """Returns the shapes of the training state, and the lowered training step of one image of SIZE."""
    config, model, _ = described(depths)
    optimizer, _ = build_optimizer(config.optimizer.to_dict(), 1, 1000)
    state = jax.eval_shape(lambda: create_state(model, optimizer, 0))
    assert config.labels.score_positives + config.labels.score_negatives == SCORED
    assert config.labels.mask_positives == MASKED

    def array(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype)

    batch = DeviceBatch(
        image=array(jnp.uint8, 1, *SIZE, 3),
        size=array(jnp.int32, 1, 2),
        slot=array(jnp.int32, 1),
        score_windows=array(jnp.int32, 1, SCORED, 3),
        score_labels=array(jnp.float32, 1, SCORED),
        score_weights=array(jnp.float32, 1, SCORED),
        mask_windows=array(jnp.int32, 1, MASKED, 3),
        mask_weights=array(jnp.float32, 1, MASKED),
        mask_targets=array(jnp.uint8, 1, MASKED, 160, 160),
        attention_targets=array(jnp.uint8, 1, MASKED, 10, 10),
        objectness_targets=array(jnp.uint8, 1, 0),
    )
    function = make_step(model, optimizer, LossSpec(**config.losses), 0)
    return state, jax.jit(function, donate_argnums=0).lower(state, batch)


def test_the_training_step_computes_each_product_three_times():
    """Once forward, once for each of its two gradients; the image has no gradient."""
    body, _ = layers()
    stem = body[0][1]
    forward = sum(count for _, count, _ in body) + sum(head_multiplications(SCORED, MASKED))
    upsampled = MASKED * (160 * 40 * 40 + 160 * 160 * 40)
    by_hand = 2 * (3 * (forward + upsampled) - stem)
    counted = lowered_step()[1].cost_analysis()["flops"]
    assert 0.95 * by_hand <= counted <= 1.1 * by_hand, (counted / 1e9, by_hand / 1e9)


def test_the_training_step_keeps_few_copies_of_the_activations():
    """Every layer's output and its activation are kept for the gradient; the state is donated."""
    depths = (1, 1, 1)  # compiles in a fraction of the time
    state, lowered = lowered_step(depths)
    body, _ = layers(depths)
    windows = 2 * SCORED * 10 * 10 * 128  # both heads'; those of the mask head also times the attention
    masks = 3 * MASKED * 160 * 160
    outputs = 4 * (sum(outputs for _, _, outputs in body) + 3 * windows + masks)
    parameters = sum(4 * x.size for x in jax.tree.leaves(state.params))
    memory = lowered.compile().memory_analysis()
    assert memory.temp_size_in_bytes <= 2 * outputs + parameters, (memory.temp_size_in_bytes, outputs, parameters)
    assert memory.alias_size_in_bytes >= 2 * parameters  # parameters and momentum are updated in place


def test_proposing_computes_each_product_once():
    """`patches`, the form of accelerators, scores every window by a product; `fourier` needs a third of that."""
    _, model, variables = described()
    body, levels = layers()
    every = sum((rows + 1) * (columns + 1) for rows, columns in levels.values())
    scored, others = head_multiplications(every, 0)
    masks = head_multiplications(0, COUNT)[1]
    image, size = jax.ShapeDtypeStruct((1, *SIZE, 3), jnp.float32), jax.ShapeDtypeStruct((1, 2), jnp.int32)

    def counted(form):
        network = model.clone(score_form=form)
        run = jax.jit(lambda v, i, s: network.apply(v, i, s, COUNT, method="propose"))
        return run.lower(variables, image, size).cost_analysis()["flops"]

    fixed = 2 * (sum(count for _, count, _ in body) + others + masks)
    direct = counted("conv")
    assert 0.95 * (fixed + 2 * scored) <= direct <= 1.1 * (fixed + 2 * scored), (
        direct / 1e9,
        fixed / 1e9,
        scored / 1e9,
    )
    assert counted("fourier") - fixed <= scored  # half
