"""Bodies on one image, forward and with the gradient of all weights: python benchmarks/bodies.py [--rounds 5]

Prints a Markdown table for each image size: medians over alternating rounds in one process. "frozen" stops the gradient
behind stage 2. The last row has XLA's own depthwise convolution: the reason for models/depthwise.py.
"""

import argparse
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from timing import device_name, medians, table

from fastmask_jax.models import depthwise
from fastmask_jax.models.efficientnet import EfficientNetLite
from fastmask_jax.models.resnet import ResNet

SIZES = ((656, 872), (384, 512))


def calls_of(body: nn.Module, height: int, width: int) -> dict:
    image = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (1, height, width, 3)), jnp.float32)
    size = jnp.array([[height, width]], jnp.int32)
    variables = jax.jit(body.init)(jax.random.key(0), image, size)

    def loss(params: dict, image: jax.Array) -> jax.Array:
        streams = body.apply({**variables, "params": params}, image, size)
        return sum(jnp.sum(jnp.square(x)) for x in streams)

    forward = jax.jit(lambda variables, image: body.apply(variables, image, size))
    return {
        "forward": (forward, (variables, image)),
        "with gradient": (jax.jit(jax.grad(loss)), (variables["params"], image)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds

    bodies = {
        "ResNet-50": ResNet(),
        "EfficientNet-Lite0": EfficientNetLite(),
        "EfficientNet-Lite0, frozen": EfficientNetLite(frozen_stages=2),
    }
    for height, width in SIZES:
        calls = {
            (name, column): call
            for name, body in bodies.items()
            for column, call in calls_of(body, height, width).items()
        }
        with mock.patch.object(depthwise, "_shifted", depthwise._grouped):
            for column, call in calls_of(EfficientNetLite(), height, width).items():
                jax.block_until_ready(call[0](*call[1]))  # traced while XLA's convolution stands in
                calls["EfficientNet-Lite0, XLA's depthwise", column] = call
        taken = medians(calls, rounds)
        rows = {name: {c: ms for (n, c), ms in taken.items() if n == name} for name, _ in calls}
        print(f"Milliseconds, {height}x{width}, {device_name()}\n")
        print(table("body", rows), end="\n\n")


if __name__ == "__main__":
    main()
