"""Times bodies on one image, forward and with the gradient of all weights: python benchmarks/bodies.py [--only ResNet]

Prints a Markdown table for each image size: medians over alternating rounds in one process. The last table compares
XLA's depthwise convolutions with those of models/depthwise.py.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from timing import device_name, medians, table

from fastmask_jax.models.depthwise import depthwise
from fastmask_jax.models.efficientnet import EfficientNetLite
from fastmask_jax.models.resnet import ResNet

SIZES = ((656, 872), (384, 512))
# (h, w, channels, kernel, stride): some layers of EfficientNet-Lite0 on a 656x872 image
DEPTHWISE = ((164, 218, 144, 3, 1), (164, 218, 144, 5, 2), (82, 109, 240, 5, 1), (41, 55, 672, 5, 1))
BODIES = {
    "ResNet-50": ResNet(),
    "EfficientNet-Lite0": EfficientNetLite(),
}


def body_calls(body: nn.Module, height: int, width: int) -> dict:
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


def grouped(x: jax.Array, kernel: jax.Array, step: int) -> jax.Array:
    """Computes XLA's depthwise convolution, padded to the same output size."""
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel[:, :, None], (step, step), "SAME", dimension_numbers=dimensions, feature_group_count=x.shape[-1]
    )


def depthwise_calls(h: int, w: int, channels: int, k: int, step: int) -> dict:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, h, w, channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(k, k, channels)), jnp.float32)
    calls = {}
    for name, form in {
        "XLA": lambda x, kernel: grouped(x, kernel, step),
        "shifted": lambda x, kernel: depthwise(x, kernel, step, (k - step) // 2),
    }.items():

        def loss(x: jax.Array, kernel: jax.Array, form=form) -> jax.Array:
            return jnp.sum(jnp.square(form(x, kernel)))

        calls[f"{name} forward"] = jax.jit(form), (x, kernel)
        calls[f"{name} with gradient"] = jax.jit(jax.grad(loss, argnums=(0, 1))), (x, kernel)
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="time only bodies whose names contain this")
    options = parser.parse_args()
    rounds = options.rounds
    bodies = {name: body for name, body in BODIES.items() if options.only in name}

    print(f"Milliseconds, {device_name()}")
    for height, width in SIZES:
        calls = {
            (name, column): call
            for name, body in bodies.items()
            for column, call in body_calls(body, height, width).items()
        }
        taken = medians(calls, rounds)
        rows = {name: {column: ms for (n, column), ms in taken.items() if n == name} for name in bodies}
        print(f"\n{height}x{width}\n\n{table('body', rows)}")
    rows = {f"{h}x{w}x{c}, {k}x{k}/{s}": medians(depthwise_calls(h, w, c, k, s), rounds) for h, w, c, k, s in DEPTHWISE}
    print(f"\n{table('depthwise', rows)}")


if __name__ == "__main__":
    main()
