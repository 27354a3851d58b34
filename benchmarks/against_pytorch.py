"""Compares proposing with a plain PyTorch port (benchmarks/torch_fastmask.py): seconds, peak memory, and results.

    pip install torch
    python benchmarks/against_pytorch.py --rounds 5

One 640x480 image at long edge 870, ResNet-50 with random weights, from pixels to 1000 RLE masks. Medians of alternating
runs in one process; the peak memory of each is that of a process of its own. The floor is the network's operations over
the rate of a large matrix product, measured in the same run.
"""

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from timing import device_name, medians

from fastmask_jax.allocator import keep_freed_memory

CONFIG = "configs/coco.py"
ORIGINAL = (480, 640)
COUNT = 1000
THRESHOLD = 0.2
Proposed = tuple[np.ndarray, np.ndarray, list[dict]]  # scores, windows, masks
NAMES = ("PyTorch port", "float32", "bfloat16")


def smooth_image() -> np.ndarray:
    """A random image with shapes of all sizes."""
    import cv2

    rng = np.random.default_rng(0)
    noise = [cv2.resize(rng.normal(size=(n, n, 3)).astype(np.float32), ORIGINAL[::-1]) for n in (6, 24, 96)]
    return np.clip(128 + 60 * sum(noise), 0, 255).astype(np.uint8)


def calibrated(model: Any, variables: Any, image: np.ndarray) -> Any:
    """Random weights whose norms have the statistics of the image, as those of a trained network have."""
    import jax
    import jax.numpy as jnp

    height, width = (side - side % 4 for side in image.shape[:2])
    windows = jnp.zeros((1, 1, 3), jnp.int32)
    arguments = jnp.asarray(image[None, :height, :width]), jnp.array([[height, width]], jnp.int32), windows, windows
    measure = jax.jit(lambda v: model.apply(v, *arguments, train=True, mutable=["frozen_stats", "batch_stats"])[1])
    return jax.device_get({**variables, **measure(variables)})


def proposer(name: str) -> Callable[[], Proposed]:
    """Returns a function that proposes on the image, by the implementation of that name."""

    from fastmask_jax.configuration import load_config
    from fastmask_jax.inference.generator import ProposalGenerator
    from fastmask_jax.models.build import build_model, initial_variables

    precision = "float32" if name == "PyTorch port" else name
    config = load_config(CONFIG, [f"--config.evaluation.precision={precision}"])
    model = build_model(config.model.to_dict())
    image = smooth_image()
    variables = calibrated(model, initial_variables(model, 0), image)
    if name == "PyTorch port":
        from torch_fastmask import TorchFastMask

        from fastmask_jax.data.augment import resize_for_inference
        from fastmask_jax.geometry import resized_size

        port = TorchFastMask(variables, model.strides, config.model.body.depths)
        height, width = resized_size(*ORIGINAL, config.evaluation.long_edges[0])

        def propose() -> Proposed:
            resized = resize_for_inference(image, (height, width))
            return port.propose(resized, COUNT, ORIGINAL, THRESHOLD)

        return propose
    generator = ProposalGenerator(model, variables, config)

    def propose() -> Proposed:
        found = generator.propose(image, count=COUNT, mask_threshold=THRESHOLD)
        return found.scores, found.windows, found.rles

    return propose


def agreement(one: Proposed, other: Proposed) -> str:
    """Differences of the scores and masks of windows that both propose."""
    from pycocotools import mask as coco_mask

    places = {tuple(window): n for n, window in enumerate(other[1].tolist())}
    pairs = [(n, places[tuple(window)]) for n, window in enumerate(one[1].tolist()) if tuple(window) in places]
    apart = max(abs(one[0][a] - other[0][b]) for a, b in pairs)
    ious = np.array([coco_mask.iou([one[2][a]], [other[2][b]], [0])[0, 0] for a, b in pairs])
    return (
        f"{len(pairs)} windows in both, scores within {apart:.1e}, mask IoU at least {ious.min():.4f}, "
        f"median {np.median(ious):.4f}"
    )


def gemm_rate(dtype: str) -> float:
    """FLOP/s of a large matrix product in JAX."""
    import jax
    import jax.numpy as jnp

    side = 2048
    x = jnp.ones((side, side), dtype)
    return 2 * side**3 / (medians({dtype: (jax.jit(jnp.matmul), (x, x))}, rounds=7)[dtype] / 1e3)


def network_operations() -> float:
    """FLOP of the network for one image, with every layer in its direct form."""
    import jax
    import jax.numpy as jnp
    from operations import gigaflops

    from fastmask_jax.configuration import load_config
    from fastmask_jax.models.build import build_model, initial_variables

    model = build_model(load_config(CONFIG).model.to_dict() | {"score_form": "conv"})
    variables = jax.eval_shape(lambda: initial_variables(model, 0))
    image, size = jax.ShapeDtypeStruct((1, 656, 872, 3), jnp.uint8), jax.ShapeDtypeStruct((1, 2), jnp.int32)
    return 1e9 * gigaflops(lambda v, x, s: model.apply(v, x, s, COUNT, method="propose"), variables, image, size)


def peak_mebibytes(name: str) -> float:
    """Peak memory of a process that proposes twice."""
    done = subprocess.run([sys.executable, __file__, "--peak", name], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", choices=NAMES, help="only print the peak memory of one, in MiB")
    options = parser.parse_args()
    keep_freed_memory()
    if options.peak:
        propose = proposer(options.peak)
        propose(), propose()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    peaks = {name: peak_mebibytes(name) for name in NAMES}
    proposers = {name: proposer(name) for name in NAMES}
    found = {name: propose() for name, propose in proposers.items()}
    import jax
    import torch

    seconds = {
        name: ms / 1e3 for name, ms in medians({n: (p, ()) for n, p in proposers.items()}, options.rounds).items()
    }
    print(f"{device_name()}; jax {jax.__version__}, torch {torch.__version__}; {options.rounds} rounds\n")
    print("| | seconds | faster | peak memory, MiB | against the port |\n|---|---:|---:|---:|---|")
    for name in NAMES:
        same = "" if name == "PyTorch port" else agreement(found[name], found["PyTorch port"])
        print(
            f"| {name} | {seconds[name]:.2f} | {seconds[NAMES[0]] / seconds[name]:.1f} | {peaks[name]:.0f} | {same} |"
        )
    flops = network_operations()
    rates = {dtype: gemm_rate(dtype) for dtype in ("float32", "bfloat16")}
    print(f"\nFloor of the network, {flops / 1e9:.0f} GFLOP with every layer in its direct form:")
    for dtype, rate in rates.items():
        print(f"{dtype} {flops / rate:.2f} s at {rate / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
