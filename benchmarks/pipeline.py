"""Measures images per second of the training pipeline, and the time of each stage.

    python benchmarks/pipeline.py --records data/coco/train --config coco

First, the milliseconds of each stage in one process with OpenCV on one thread: medians over rounds of the same images,
decoded anew, and if the set is small, as in later epochs, when a worker has kept them.
Then the images/s of `train_batches` with worker processes, as in training, after the epochs in which they decode and
keep the images of a small set: medians over groups of batches.
"""

import argparse
import sys
import time
from collections import defaultdict
from statistics import median

import cv2
import numpy as np

from fastmask_jax.configuration import load_config
from fastmask_jax.data.augment import color_jitter, copy_paste, random_flip, resize_into
from fastmask_jax.data.batch_plan import BatchPlan
from fastmask_jax.data.labels import LabelSpec, sample
from fastmask_jax.data.pipeline import KEPT_BYTES, DecodedRecords, TrainSpec, label_at_some_scale, train_batches
from fastmask_jax.data.records import RecordSource
from fastmask_jax.data.targets import draw_attention, draw_masks
from fastmask_jax.geometry import FINE_MASK, WINDOW


class Stopwatch:
    """Measures the seconds of each stage since the last `lap`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now


def time_stages(
    records: DecodedRecords, numbers: list[int], spec: TrainSpec, bucket: tuple[int, int]
) -> dict[str, float]:
    """Returns the milliseconds per image of each stage of `pipeline`, in one process."""
    watch = Stopwatch()
    for number in numbers:
        rng = np.random.default_rng(number)
        count, giver = int(rng.integers(spec.copy_paste + 1)), int(rng.choice(numbers))
        watch.lap("")
        drawn, *others = [records[n].sample for n in ([number, giver] if count else [number])]
        watch.lap("read, decode")
        for other in others:
            drawn = copy_paste(drawn, other, count, rng)
        watch.lap("copies")
        drawn = color_jitter(random_flip(drawn, rng), spec.color_jitter, rng)
        watch.lap("flip, color")
        drawn, resized, labels, _, _ = label_at_some_scale(drawn, spec, bucket, rng)
        windows = sample(labels, rng, spec.labels)
        watch.lap("labels, crop")
        place = np.zeros((*bucket, 3), np.uint8)[: resized[0], : resized[1]]
        resize_into(drawn.image, place)
        watch.lap("resize")
        view, sizes = (windows.mask_windows, windows.mask_objects), (drawn.size, resized, spec.strides)
        draw_masks(np.zeros((len(view[0]), FINE_MASK, FINE_MASK), np.uint8), *view, drawn.masks, *sizes)
        draw_attention(np.zeros((len(view[0]), WINDOW, WINDOW), np.uint8), *view, drawn.boxes, *sizes)
        watch.lap("targets")
    del watch.seconds[""]
    return {stage: seconds / len(numbers) * 1e3 for stage, seconds in watch.seconds.items()}


def time_batches(source: RecordSource, spec: TrainSpec, plan: BatchPlan, workers: int, steps: int) -> list[float]:
    """Returns images per second over groups of batches, one batch from each worker."""
    batches = train_batches(source, spec, plan, 0, workers=workers, seed=0)
    try:
        # Skips batches that were buffered before the first request, and epochs in which images are decoded and kept.
        epochs = max(workers, 1) if 3 * plan.pixels <= KEPT_BYTES else 0
        for _ in range(3 * workers + 2 + epochs * plan.steps_per_epoch):
            next(batches)
        rates = []
        for _ in range(steps):
            start = time.perf_counter()
            for _ in range(max(workers, 1)):
                next(batches)
            rates.append(plan.batch_size * max(workers, 1) / (time.perf_counter() - start))
        return rates
    finally:
        batches.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", required=True, help="records of one split, written by prepare.py")
    parser.add_argument("--config", default="coco", help="config, with its variant after a colon")
    parser.add_argument("--images", type=int, default=200, help="images per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="numbers of worker processes to time")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="timings per number of workers")
    arguments = parser.parse_args()
    try:
        source = RecordSource(arguments.records)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    config = load_config(arguments.config)
    smallest, largest = config.data.long_edges
    spec = TrainSpec(
        tuple(config.model.strides),
        tuple(range(smallest, largest + 1)),
        LabelSpec(**config.labels),
        random_crop=config.data.random_crop,
        color_jitter=config.data.color_jitter,
        copy_paste=config.data.copy_paste,
        objectness_attention=config.model.objectness_attention_width > 0,
    )
    index, buckets = source.index, config.data.buckets
    plan = BatchPlan(
        index.height,
        index.width,
        index.objects > 0,
        batch_size=arguments.batch_size,
        buckets=buckets,
        long_edge_max=min(largest, *map(max, buckets)) if spec.random_crop else largest,
        seed=0,
    )
    numbers = plan.fitting(len(buckets) - 1)[: arguments.images].tolist()

    cv2.setNumThreads(0)
    print(f"one process, {len(numbers)} images, medians of {arguments.rounds} rounds")
    for keep in (False, True) if 3 * plan.pixels <= KEPT_BYTES else (False,):
        records = DecodedRecords(source, keep)
        time_stages(records, numbers if keep else numbers[:20], spec, buckets[-1])
        rounds = [time_stages(records, numbers, spec, buckets[-1]) for _ in range(arguments.rounds)]
        print("  decoded images kept:" if keep else "  decoded anew:")
        for stage in rounds[0]:
            print(f"    {stage:12s} {median(r[stage] for r in rounds):6.2f} ms an image")
        total = median(sum(r.values()) for r in rounds)
        print(f"    {'sum':12s} {total:6.2f} ms an image = {1e3 / total:.1f} images/s")
    for workers in arguments.workers:
        rate = median(time_batches(source, spec, plan, workers, arguments.steps))
        each = f", {rate / workers:.1f} a worker" if workers else ""
        print(f"{workers} workers, batches of {plan.batch_size}: {rate:.1f} images/s{each}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
