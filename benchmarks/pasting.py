"""Times converting 1000 masks from logits to RLE in a 640×480 image: by threshold crossings, and pixel by pixel.

    python benchmarks/pasting.py

Medians of alternating runs in one process on one thread. "objects" are masks like those of a trained network (a soft
ellipse of the size that fits its window); "noise" fills whole windows with coarse blobs, the worst case.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from fastmask_jax.geometry import all_windows, original_window_boxes, resized_size
from fastmask_jax.masks.paste import paste, upsample
from fastmask_jax.masks.rle import encode, masks_to_results, tight_boxes

STRIDES = (16, 24, 32, 48, 64, 96, 128)
ORIGINAL = (480, 640)
THRESHOLD = 0.2  # as published


def logits_of(kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "noise":
        smooth = np.stack([cv2.GaussianBlur(noise, (0, 0), 4) for noise in rng.normal(size=(count, 40, 40))])
        return (smooth / smooth.std((1, 2), keepdims=True) * 3 - 2).astype(np.float32)
    across = (np.arange(40) - 19.5) / 20
    sides = rng.uniform(0.42, 0.68, (count, 2, 1))
    radius = np.sqrt((across / sides[:, 0])[:, :, None] ** 2 + (across / sides[:, 1])[:, None] ** 2)
    return (8 * (1 - radius)).astype(np.float32)


def drawn(windows: np.ndarray, logits: np.ndarray, resized: tuple[int, int], crops_only: bool) -> list[bytes]:
    """Resizes and thresholds every window, then encodes its crop or, without `crops_only`, the full-size mask."""
    height, width = ORIGINAL
    texts = []
    fine = 1 / (1 + np.exp(-upsample(logits)))
    for (x1, y1, x2, y2), mask in zip(
        original_window_boxes(windows, STRIDES, resized, ORIGINAL).tolist(), fine, strict=True
    ):
        left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
        whole = cv2.resize(mask, (x2 - x1, y2 - y1), interpolation=cv2.INTER_LINEAR)
        crop = whole[top - y1 : bottom - y1, left - x1 : right - x1] >= THRESHOLD
        if crops_only:
            texts.append(coco_mask.encode(np.asfortranarray(crop, np.uint8))["counts"])
        else:
            full = np.zeros(ORIGINAL, np.uint8, order="F")
            full[top:bottom, left:right] = crop
            texts.append(coco_mask.encode(full)["counts"])
    return texts


def measure(kind: str, masks: int, repeats: int) -> None:
    rng = np.random.default_rng(0)
    resized = resized_size(*ORIGINAL, 870)
    windows = rng.permutation(all_windows(*resized, STRIDES))[:masks]
    logits = logits_of(kind, len(windows), rng)
    where = {"strides": STRIDES, "resized": resized, "original": ORIGINAL, "threshold": THRESHOLD}
    scores = np.ones(len(windows), np.float32)
    runs = paste(windows, logits, **where)
    stages: dict[str, Callable[[], object]] = {
        "paste: crossings → runs": lambda: paste(windows, logits, **where),
        "encode: runs → RLE": lambda: encode(runs),
        "tight_boxes": lambda: tight_boxes(runs),
        "masks_to_results, all of it": lambda: masks_to_results(scores, windows, logits, **where),
        "drawn, full-size masks encoded": lambda: drawn(windows, logits, resized, crops_only=False),
        "drawn, crops encoded, not yet placed": lambda: drawn(windows, logits, resized, crops_only=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(repeats):
        for name, stage in stages.items():
            start = time.perf_counter()
            stage()
            seconds[name].append(time.perf_counter() - start)
    mine = [mask["counts"].encode() for mask in encode(runs)]
    same = sum(a == b for a, b in zip(mine, drawn(windows, logits, resized, crops_only=False), strict=True))
    print(f"{kind}: {len(windows)} masks, {len(runs.edges) // 2} runs, {same} strings equal to the drawn masks'")
    for name, times in seconds.items():
        print(f"  {name:<38} {1000 * statistics.median(times):7.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--masks", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    for kind in ("objects", "noise"):
        measure(kind, options.masks, options.repeats)


if __name__ == "__main__":
    main()
