"""Times 3x3 convolutions in both precisions, as XLA's convolution and as this project computes them.

    PYTHONPATH=. python benchmarks/convolutions.py --rounds 5

Prints a Markdown table of medians over alternating rounds in one process, at shapes of ResNet-50, of the neck and of
the mask head's detail branch on a 656x872 image. The results are the reason for `products.Conv3x3`.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from timing import device_name, medians, table

from fastmask_jax.allocator import keep_freed_memory
from fastmask_jax.models.products import conv3x3

# (images, h, w, channels in, channels out)
SHAPES = [
    (1, 164, 218, 64, 64),
    (1, 82, 109, 128, 128),
    (1, 41, 55, 256, 256),
    (1, 41, 55, 1024, 256),
    (1, 14, 19, 1024, 256),
    (1000, 10, 10, 48, 48),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    keep_freed_memory()
    rng = np.random.default_rng(0)
    rows = {}
    for images, h, w, inside, outside in SHAPES:
        x = jnp.asarray(rng.normal(size=(images, h, w, inside)), jnp.float32)
        calls = {}
        for dtype in ("float32", "bfloat16"):
            kernel = jnp.asarray(rng.normal(size=(3, 3, inside, outside)), dtype)
            conv = nn.Conv(outside, (3, 3), padding=1, use_bias=False, dtype=dtype)
            calls[f"{dtype}, XLA"] = (
                jax.jit(lambda k, x, conv=conv: conv.apply({"params": {"kernel": k}}, x)),
                (kernel, x),
            )
            calls[f"{dtype}, here"] = jax.jit(lambda k, x: conv3x3(x, k, 1, "float32")), (kernel, x)
        rows[f"{images} x {h}x{w}, {inside} → {outside}"] = medians(calls, rounds)
    print(f"Milliseconds, {device_name()}\n")
    print(table("shape", rows))


if __name__ == "__main__":
    main()
