"""Times a training step and inference on random images in the largest bucket; prints a Markdown table.

python benchmarks/step.py --config configs/coco.py --batch 1 2 --proposals 100 1000

With --system_malloc, freed memory is returned to the system, as without fastmask_jax/allocator.py.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from fastmask_jax.allocator import keep_freed_memory
from fastmask_jax.configuration import load_config
from fastmask_jax.data.batches import InferenceBatch, TrainBatch
from fastmask_jax.geometry import FINE_MASK, WINDOW, all_windows
from fastmask_jax.inference.device_model import DeviceModel
from fastmask_jax.models.build import build_model
from fastmask_jax.training.devices import AXIS, map_over_devices, replicate, split
from fastmask_jax.training.losses import LossSpec
from fastmask_jax.training.optimizer import build_optimizer
from fastmask_jax.training.step import create_state, make_step, on_device


def random_batch(
    images: int, bucket: tuple[int, int], scored: int, masked: int, attended: tuple[int, ...] = ()
) -> TrainBatch:
    """Returns noise images; all sampled windows count. `attended`: strides of levels with objectness attention."""
    rng = np.random.default_rng(0)
    windows = len(all_windows(*bucket, attended)) if attended else 0
    return TrainBatch(
        image=rng.integers(0, 256, (images, *bucket, 3), np.uint8),
        size=np.full((images, 2), bucket, np.int32) // 4 * 4,
        image_id=np.arange(images),
        slot=np.arange(images, dtype=np.int32),
        score_windows=rng.integers(0, 5, (images, scored, 3), np.int32),
        score_labels=rng.integers(0, 2, (images, scored)).astype(np.float32),
        score_weights=np.ones((images, scored), np.float32),
        mask_windows=rng.integers(0, 5, (images, masked, 3), np.int32),
        mask_weights=np.ones((images, masked), np.float32),
        mask_targets=rng.integers(0, 2, (images, masked, FINE_MASK, FINE_MASK), np.uint8),
        attention_targets=rng.integers(0, 2, (images, masked, WINDOW, WINDOW), np.uint8),
        objectness_targets=rng.integers(0, 3, (images, windows), np.uint8),
    )


def measure(work: Callable[[], object], runs: int) -> tuple[float, float]:
    """Returns the seconds of the first call, which compiles, and the median seconds of the following calls."""
    seconds = []
    for _ in range(runs + 1):
        begin = time.perf_counter()
        jax.block_until_ready(work())
        seconds.append(time.perf_counter() - begin)
    return seconds[0], statistics.median(seconds[1:])


def memory() -> str:
    stats = jax.local_devices()[0].memory_stats() or {}
    return f"{stats['peak_bytes_in_use'] / 2**30:.1f} GiB" if "peak_bytes_in_use" in stats else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/coco.py")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="images per device")
    parser.add_argument("--proposals", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--system_malloc", action="store_true")
    options, overrides = parser.parse_known_args()
    if not options.system_malloc:
        keep_freed_memory()
    config = load_config(options.config, overrides)
    bucket = max(config.data.buckets, key=lambda b: b[0] * b[1])
    devices = jax.local_device_count()

    print(f"{options.config}, {config.model.dtype}, bucket {bucket}, {devices} × {jax.devices()[0].device_kind}\n")
    print(
        "| what | images a device | first call, s | s a call | images/s | peak memory |\n|---|---:|---:|---:|---:|---:|"
    )
    for images in options.batch:
        model = build_model(config.model.to_dict(), axis_name=AXIS)
        optimizer, _ = build_optimizer(config.optimizer.to_dict(), images * devices, config.train.images)
        state = replicate(create_state(model, optimizer, 0))
        step = map_over_devices(make_step(model, optimizer, LossSpec(), 0))
        windows = config.labels.score_positives + config.labels.score_negatives + config.labels.random_negatives
        attended = model.strides if model.objectness_attention_width else ()
        batch = random_batch(images * devices, bucket, windows, config.labels.mask_positives, attended)
        on_devices = split(on_device(batch))

        def train(step: Callable = step, batch: object = on_devices) -> object:
            nonlocal state
            state, metrics = step(state, batch)
            return metrics

        row("training step", images, devices, *measure(train, options.runs))
        for count in options.proposals:
            propose = DeviceModel(
                build_model(config.model.to_dict()), state.variables, print, config.evaluation.precision
            )
            used = InferenceBatch(batch.image.astype(np.float32), batch.size)
            use = measure(partial(propose, used, count), options.runs)
            row(f"{count} proposals, decoded", images, devices, *use)


def row(what: str, images: int, devices: int, first: float, median: float) -> None:
    rate = images * devices / median
    print(f"| {what} | {images} | {first:.1f} | {median:.3f} | {rate:.2f} | {memory()} |", flush=True)


if __name__ == "__main__":
    main()
