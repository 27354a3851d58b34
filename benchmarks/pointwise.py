"""Times 1x1 convolutions as nn.Conv and as a matrix product: python benchmarks/pointwise.py [--rounds 5]

Prints a Markdown table of medians over alternating rounds in one process, forward and with the gradient, at the shapes
of ResNet-50 on a 656x872 image. The results are the reason for models/products.py.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from timing import device_name, medians, table

from fastmask_jax.models.products import Dense

# (h, w, channels in, channels out, stride)
SHAPES = [
    (164, 218, 64, 256, 1),
    (164, 218, 256, 64, 1),
    (164, 218, 256, 512, 2),
    (82, 109, 128, 512, 1),
    (82, 109, 512, 1024, 3),
    (41, 55, 1024, 256, 1),
    (41, 55, 256, 1024, 1),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds

    rng = np.random.default_rng(0)
    rows = {}
    for h, w, inside, outside, step in SHAPES:
        x = jnp.asarray(rng.normal(size=(1, h, w, inside)), jnp.float32)
        kernel = jnp.asarray(rng.normal(size=(inside, outside)), jnp.float32)
        conv = nn.Conv(outside, (1, 1), (step, step), use_bias=False)
        product = Dense(outside, step, use_bias=False)
        calls = {}
        for name, layer, k in [("nn.Conv", conv, kernel[None, None]), ("product", product, kernel)]:

            def forward(k, x, layer=layer):
                return layer.apply({"params": {"kernel": k}}, x)

            def loss(k, x, forward=forward):
                return jnp.sum(forward(k, x) ** 2)

            calls[f"{name} forward"] = jax.jit(forward), (k, x)
            calls[f"{name} with gradient"] = jax.jit(jax.grad(loss, argnums=(0, 1))), (k, x)
        rows[f"{h}x{w}, {inside} → {outside}, stride {step}"] = medians(calls, rounds)
    print(f"Milliseconds, {device_name()}\n")
    print(table("shape", rows))


if __name__ == "__main__":
    main()
