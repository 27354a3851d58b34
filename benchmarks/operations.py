"""Counts parameters, windows, and floating-point operations of inference and of a training step; a Markdown table.

    python benchmarks/operations.py --configs configs/coco_few.py configs/coco_few.py:level8 --size 888x1184

The operations come from XLA's cost analysis of the traced functions before compilation, so they do not depend on the
machine. Inference takes one image of `--size` pixels, the step one image of the largest training bucket.
"""

import argparse

import jax
import jax.numpy as jnp
from step import random_batch

from fastmask_jax.configuration import load_config
from fastmask_jax.geometry import all_windows
from fastmask_jax.models.build import build_model, initial_variables
from fastmask_jax.training.losses import LossSpec
from fastmask_jax.training.optimizer import build_optimizer
from fastmask_jax.training.step import create_state, make_step, on_device


def gigaflops(function: object, *arguments: object) -> float:
    """Returns the gigaflops of one call, without compiling or computing it."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    return jax.jit(function).lower(*shapes).cost_analysis()["flops"] / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", required=True)
    parser.add_argument("--size", default="656x872", help="HxW, multiples of 4 (default: 656x872)")
    parser.add_argument("--proposals", type=int, default=100, help="(default: 100)")
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    image, size = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32), jax.ShapeDtypeStruct((1, 2), jnp.int32)
    print(f"{options.proposals} proposals of a {options.size} image; XLA's cost analysis, jax {jax.__version__}\n")
    print("| config | parameters | windows | proposing, GFLOP | training step, GFLOP |\n|---|---:|---:|---:|---:|")
    for spec in options.configs:
        config = load_config(spec)
        model = build_model(config.model.to_dict())
        variables = jax.eval_shape(lambda model=model: initial_variables(model, 0))

        def propose(variables: dict, image: jax.Array, size: jax.Array, model=model) -> object:
            return model.apply(variables, image, size, options.proposals, method="propose")

        optimizer, _ = build_optimizer(config.optimizer.to_dict(), 1, config.train.images)
        state = jax.eval_shape(lambda model=model, optimizer=optimizer: create_state(model, optimizer, 0))
        labels = config.labels
        batch = random_batch(
            1,
            max(config.data.buckets, key=lambda b: b[0] * b[1]),
            labels.score_positives + labels.score_negatives + labels.random_negatives,
            labels.mask_positives,
            model.strides if model.objectness_attention_width else (),
        )
        step = make_step(model, optimizer, LossSpec(**config.losses), 0)
        parameters = sum(x.size for x in jax.tree.leaves(variables["params"]))
        windows = len(all_windows(height, width, model.strides))
        work = gigaflops(propose, variables, image, size), gigaflops(step, state, on_device(batch))
        print(f"| {spec} | {parameters:,} | {windows:,} | {work[0]:.1f} | {work[1]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
