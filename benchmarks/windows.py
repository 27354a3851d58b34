"""Times the forms of sliding windows: python benchmarks/windows.py [--rounds 5]

Prints three Markdown tables of medians over alternating rounds in one process: scoring every window of one image (the
first fully connected layer, 12800 → 512, which is nearly all of the work); the sampled windows of training, forward and
backward through that layer; and the gradient of window extraction, JAX's and ours. The first two tables determine the
defaults of FastMask.score_form and FastMask.train_form.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from timing import device_name, medians, table

from fastmask_jax.geometry import all_windows, level_sizes
from fastmask_jax.models.windows import (
    MAP_FORMS,
    WindowDense,
    extract_patches,
    flatten_levels,
    gather_windows,
    surround,
    window_cells,
)

HEIGHT, WIDTH = 656, 872
STRIDES = (16, 24, 32, 48, 64, 96, 128)
CHANNELS, FEATURES, SAMPLED = 128, 512, 128


def stock_patches(x: jax.Array) -> jax.Array:
    return lax.conv_general_dilated_patches(
        x, (10, 10), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=lax.Precision.HIGHEST
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds

    rng = np.random.default_rng(0)
    size = jnp.array([[HEIGHT, WIDTH]])
    cells = level_sizes(HEIGHT, WIDTH, STRIDES)
    levels = [jnp.asarray(rng.normal(size=(1, h, w, CHANNELS)), jnp.float32) for h, w in cells]
    every = jnp.asarray(all_windows(HEIGHT, WIDTH, STRIDES))[None]
    layer = WindowDense(FEATURES)
    variables = {
        "params": {
            "kernel": jnp.asarray(rng.normal(size=(10, 10, CHANNELS, FEATURES)) / 113, jnp.float32),
            "bias": jnp.zeros(FEATURES),
        }
    }

    def gathered(levels: list, windows: jax.Array) -> jax.Array:
        index = window_cells(windows, size, STRIDES, cells)
        return gather_windows(flatten_levels(levels), index)

    def dense(variables: dict, levels: list, form: str) -> jax.Array:
        return layer.apply(variables, [surround(x) for x in levels], form, method="over_maps")

    score = {form: partial(dense, form=form) for form in MAP_FORMS[1:]}
    score["gather"] = lambda v, x: layer.apply(v, gathered(x, every))
    print(f"Every window of a {HEIGHT}x{WIDTH} image ({every.shape[1]}), {device_name()}\n")
    print(table("form", medians({k: (jax.jit(f), (variables, levels)) for k, f in score.items()}, rounds)))

    at = jnp.asarray(rng.integers(0, every.shape[1], (1, SAMPLED)))
    train = {
        "gather": lambda v, x, at: layer.apply(v, gathered(x, every[0][at])),
        "patches": lambda v, x, at: dense(v, x, "patches")[0, at],
    }

    def backward(forward):
        return jax.jit(jax.grad(lambda v, x, at: jnp.sum(forward(v, x, at) ** 2), argnums=(0, 1)))

    print(f"\n{SAMPLED} sampled windows, forward and backward, {device_name()}\n")
    print(table("form", medians({k: (backward(f), (variables, levels, at)) for k, f in train.items()}, rounds)))

    def extraction(extract):
        return jax.jit(jax.grad(lambda levels: sum(jnp.sum(extract(surround(x)) ** 2) for x in levels)))

    compared = {"ours": extract_patches, "stock": stock_patches}
    print(f"\nGradient of extracting every window, {device_name()}\n")
    print(table("gradient", medians({k: (extraction(f), (levels,)) for k, f in compared.items()}, rounds)))


if __name__ == "__main__":
    main()
