"""Times suppression by mask IoU for 1000 proposals of a 640×480 image.

    python benchmarks/suppression.py

There are three sets of objects with wavy outlines and many sizes, each object seen by windows that it roughly fits:
"agreeing" imitates a trained network, whose windows see nearly the same mask; "ragged" imitates a network that has
learned little, with holes, blobs and few similar masks; "large, ragged" is the hardest: hundreds of large masks overlap
and none repeats another. Timed from the RLE that the library returns to the indices of the kept masks. Medians of
alternating runs in one process on one thread, in processor time, which depends least on other load.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import cv2
import numpy as np
from timing import device_name, table

from fastmask_jax.geometry import MASK, all_windows, resized_size, window_boxes
from fastmask_jax.masks.rle import ScoredMasks, masks_to_results
from fastmask_jax.masks.suppression import suppress

STRIDES = (16, 24, 32, 48, 64, 96, 128)
ORIGINAL = (480, 640)
RESIZED = resized_size(*ORIGINAL, 870)
SETS = {  # objects, largest radius in resized pixels, roughness
    "agreeing": (60, 250.0, 8.0),
    "ragged": (150, 80.0, 60.0),
    "large, ragged": (60, 250.0, 60.0),
}
IOUS = (0.3, 0.5, 0.7, 0.8, 0.9)


def logits_of(center: np.ndarray, radius: float, waves: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns the logits of one object in each window, positive inside a circle with a wavy outline; resized pixels."""
    cells = (np.arange(MASK) + 0.5) / MASK
    x = boxes[:, None, None, 0] + cells * (boxes[:, 2] - boxes[:, 0])[:, None, None] - center[0]
    y = (boxes[:, 1, None] + cells * (boxes[:, 3] - boxes[:, 1])[:, None])[:, :, None] - center[1]
    angle = np.arctan2(y, x)
    outline = 1 + sum(a * np.cos(n * angle + b) for n, (a, b) in enumerate(waves, 2))
    return 12 * (outline - np.hypot(x, y) / radius)


def proposals_of(count: int, objects: int, largest: float, roughness: float) -> ScoredMasks:
    """Returns the best `count` windows of `objects` objects, with radii up to `largest`, as masks in the image."""
    rng = np.random.default_rng(0)
    windows = all_windows(*RESIZED, STRIDES)
    boxes = window_boxes(windows, STRIDES)
    middle, side = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2] - boxes[:, 0]).astype(float)
    chosen, logits, scores = [], [], []
    for _ in range(objects):
        radius = np.exp(rng.uniform(np.log(30), np.log(largest)))
        center = rng.uniform(0, 1, 2) * RESIZED[::-1]
        apart = np.abs(middle - center).max(1) / side
        fitting = np.flatnonzero((apart < 0.25) & (2 * radius / side > 0.3) & (2 * radius / side < 0.95))
        waves = np.stack([rng.uniform(0, 0.15, 4), rng.uniform(0, 2 * np.pi, 4)], 1)
        noise = rng.normal(size=(len(fitting), MASK, MASK)).astype(np.float32)
        noise = np.stack([cv2.GaussianBlur(one, (0, 0), 4) for one in noise]) if len(fitting) else noise
        chosen.append(windows[fitting])
        logits.append(logits_of(center, radius, waves, boxes[fitting]) + roughness * noise)
        scores.append(1 - apart[fitting] + rng.normal(size=len(fitting)) / 20)
    best = np.argsort(-np.concatenate(scores), kind="stable")[:count]
    return masks_to_results(
        np.linspace(1, 0.1, len(best)),
        np.concatenate(chosen)[best],
        np.concatenate(logits)[best].astype(np.float32),
        strides=STRIDES,
        resized=RESIZED,
        original=ORIGINAL,
        threshold=0.2,
    )


def processor_medians(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Returns the median processor time of each call in milliseconds, on one thread; every round runs all calls."""
    taken = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            call()
            taken[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--masks", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    rows = {}
    for name, kind in SETS.items():
        proposals = proposals_of(options.masks, *kind)
        width = np.sqrt(proposals.boxes[:, 2:].prod(1)).mean()
        print(f"{name}: {len(proposals.scores)} masks, {width:.0f} pixels wide on average; kept by IoU:")
        print("  ", {iou: len(suppress(proposals, iou)) for iou in IOUS})
        calls = {f"IoU {iou}": partial(suppress, proposals, iou) for iou in IOUS}
        rows[name] = processor_medians(calls, options.rounds)
    print(f"{device_name()}, medians of {options.rounds} runs in milliseconds:\n{table('masks', rows)}")


if __name__ == "__main__":
    main()
