"""Loads records as padded training batches, in several processes; results do not depend on their number.

A training batch is a pure function of (plan, seed, step): each image draws from `default_rng((seed, step, slot))`,
where `slot` is its position in the global batch. There is no state between steps, so a run resumes at any step.
"""

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import cv2
import grain
import numpy as np
from absl import flags
from jaxtyping import Bool, Int64, UInt8

from fastmask_jax.allocator import keep_freed_memory
from fastmask_jax.data.augment import (
    Sample,
    color_jitter,
    copy_paste,
    crowd_region,
    random_crop,
    random_flip,
    resize_into,
)
from fastmask_jax.data.batch_plan import BatchPlan
from fastmask_jax.data.batches import TrainBatch
from fastmask_jax.data.image_file import decode_image
from fastmask_jax.data.labels import LabelSpec, WindowLabels, WindowSample, label_windows, sample, whole_boxes
from fastmask_jax.data.objectness_targets import attended_windows, draw_objectness_targets, place_in_bucket
from fastmask_jax.data.records import Record
from fastmask_jax.data.resource_tracker import start_in_own_session
from fastmask_jax.data.targets import InstanceMask, draw_attention, draw_masks
from fastmask_jax.errors import InvalidInput, WorkerDied
from fastmask_jax.geometry import FINE_MASK, WINDOW, resized_size

SCALE_TRIES = 4  # long edges drawn for an image until one gives a positive window
KEPT_BYTES = 1 << 29  # pixels that a worker keeps, if all images are no more: about 580 of 640x480 pixels
IMAGE_TRIES = 8  # images drawn for a place of the batch until one has a positive window

T = TypeVar("T")


@dataclass(frozen=True)
class TrainSpec:
    """How training images are augmented, scaled and labeled (docs/network.md §1, §2).

    Attributes:
      strides: strides of the levels, in resized pixels.
      long_edges: one of them is drawn for each image.
      random_crop: take a random crop of an image that is too large for its bucket at the drawn long edge.
      color_jitter: strength of `augment.color_jitter`; 0: none.
      copy_paste: maximum number of objects pasted from another image; see `augment.copy_paste`.
      objectness_attention: label only windows to attend to, and draw targets for the objectness attention.
    """

    strides: tuple[int, ...]
    long_edges: tuple[int, ...]
    labels: LabelSpec
    random_crop: bool = False
    color_jitter: float = 0.0
    copy_paste: int = 0
    objectness_attention: bool = False


@runtime_checkable
class Records(Protocol):
    """A random-access, picklable source of records, such as `records.RecordSource`."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Record: ...


class Loaded(NamedTuple):
    """A record, decoded."""

    sample: Sample
    image_id: int
    partly_labeled: bool


class Example(NamedTuple):
    """One image of a training batch before drawing: pixels and targets are written directly to the batch."""

    sample: Sample
    image_id: int
    resized: tuple[int, int]  # (height, width)
    windows: WindowSample
    objectness_targets: UInt8[np.ndarray, "N"]  # of the image's own windows, see data/objectness_targets; or N = 0


class Labeled(NamedTuple):
    """An image or a crop of it, with its labels."""

    shown: Sample
    resized: tuple[int, int]  # (height, width)
    labels: WindowLabels
    known: Bool[np.ndarray, "N"]  # windows whose labels are certain
    attended: Bool[np.ndarray, "N"] | None  # windows that the network should attend to; None: all


def load_sample(record: Record) -> Sample:
    """Decodes a record and rounds its boxes to whole pixels (docs/network.md §2).

    Raises:
      ValueError: the image cannot be decoded, or its size is not that of the record; names file and id.
    """
    name = f"image {record.image_id} ({record.file_name})"
    try:
        image = decode_image(record.image_bytes, max_pixels=record.height * record.width)
    except ValueError as error:
        raise InvalidInput(f"{name} cannot be decoded ({error}): prepare the records again") from None
    if image.shape[:2] != (record.height, record.width):
        raise InvalidInput(
            f"{name} has {image.shape[0]}x{image.shape[1]} pixels, but its record says "
            f"{record.height}x{record.width}: prepare the records again"
        )
    return Sample(image, whole_boxes(record.boxes), record.crowd, InstanceMask.of_rles(record.rles))


class DecodedRecords:
    """Random access to decoded records, each of which may be kept, with its masks, for the next access."""

    def __init__(self, source: Records, keep: bool) -> None:
        self._source = source
        self._kept: dict[int, Loaded] | None = {} if keep else None

    def __getitem__(self, number: int) -> Loaded:
        if self._kept and number in self._kept:
            return self._kept[number]
        record = self._source[number]
        loaded = Loaded(load_sample(record), record.image_id, record.partly_labeled)
        loaded.sample.image.flags.writeable = False
        if self._kept is not None:
            self._kept[number] = loaded
        return loaded


def label_at_some_scale(
    drawn: Sample, spec: TrainSpec, bucket: tuple[int, int], rng: np.random.Generator, partly_labeled: bool = False
) -> Labeled:
    """Labels an image at a random long edge; tries a few others while no window is positive."""
    for _ in range(SCALE_TRIES):
        long_edge = int(rng.choice(spec.long_edges))
        if spec.random_crop:
            shown, resized = random_crop(drawn, long_edge, bucket, rng)
        else:
            shown, resized = drawn, resized_size(*drawn.size, long_edge)
        unlabeled = crowd_region(shown) if spec.labels.ignore_unknown else None
        view = (shown.size, resized, spec.strides, spec.labels)
        labels = label_windows(shown.boxes, shown.crowd, *view, unlabeled, partly_labeled)
        known, attended = labels.positive | labels.hard_negative | labels.background, None
        if spec.objectness_attention:
            attended = attended_windows(shown.boxes, shown.crowd, shown.masks, *view)
            labels = labels.within(attended)
        if labels.positive.any():
            break
    return Labeled(shown, resized, labels, known, attended)


def choose_example(
    records: DecodedRecords,
    number: int,
    substitutes: Int64[np.ndarray, "m"],
    spec: TrainSpec,
    bucket: tuple[int, int],
    rng: np.random.Generator,
) -> Example:
    """Augments and labels record `number`, or a substitute if it has no positive window.

    An image without a positive window is skipped (docs/network.md §2): if no substitute has one either, all weights
    are 0.
    """
    for _ in range(IMAGE_TRIES):
        drawn, image_id, partly_labeled = records[number]
        if spec.copy_paste:
            giver, count = int(rng.choice(substitutes)), int(rng.integers(spec.copy_paste + 1))
            drawn = copy_paste(drawn, records[giver].sample, count, rng) if count else drawn
        drawn = color_jitter(random_flip(drawn, rng), spec.color_jitter, rng)
        one = label_at_some_scale(drawn, spec, bucket, rng, partly_labeled)
        if one.labels.positive.any():
            break
        number = int(rng.choice(substitutes))
    labels = one.labels
    if not labels.positive.any():
        nothing = np.zeros_like(one.known)
        labels = labels._replace(hard_negative=nothing, background=nothing)
    windows, targets = sample(labels, rng, spec.labels), np.zeros(0, np.uint8)
    if one.attended is not None:
        targets = draw_objectness_targets(one.attended, one.known, one.resized, spec.strides, rng)
    return Example(one.shown, image_id, one.resized, windows, targets)


def pack(examples: Sequence[Example], slots: range, bucket: tuple[int, int], strides: Sequence[int]) -> TrainBatch:
    """Packs examples into a batch, resizing images and drawing targets in place."""
    B = len(examples)
    grids = [(example.objectness_targets, example.resized) for example in examples if len(example.objectness_targets)]
    attention = [place_in_bucket(targets, resized, bucket, strides) for targets, resized in grids]
    windows = WindowSample(*map(np.stack, zip(*(example.windows for example in examples), strict=True)))
    batch = TrainBatch(
        image=np.zeros((B, *bucket, 3), np.uint8),
        size=np.array([example.resized for example in examples], np.int32),
        image_id=np.array([example.image_id for example in examples], np.int64),
        slot=np.array(slots, np.int32),
        score_windows=windows.score_windows,
        score_labels=windows.score_labels,
        score_weights=windows.score_weights,
        mask_windows=windows.mask_windows,
        mask_weights=windows.mask_weights,
        mask_targets=np.zeros((*windows.mask_objects.shape, FINE_MASK, FINE_MASK), np.uint8),
        attention_targets=np.zeros((*windows.mask_objects.shape, WINDOW, WINDOW), np.uint8),
        objectness_targets=np.stack(attention) if attention else np.zeros((B, 0), np.uint8),
    )
    for row, (drawn, _, resized, chosen, _) in enumerate(examples):
        resize_into(drawn.image, batch.image[row, : resized[0], : resized[1]])
        view = (chosen.mask_windows, chosen.mask_objects)
        sizes = (drawn.size, resized, strides)
        draw_masks(batch.mask_targets[row], *view, drawn.masks, *sizes)
        draw_attention(batch.attention_targets[row], *view, drawn.boxes, *sizes)
    return batch


@dataclass(frozen=True)
class BatchLoader:
    """Maps a step to its TrainBatch; runs in the worker processes."""

    source: Records
    spec: TrainSpec
    plan: BatchPlan
    slots: range  # this process's places in the global batch
    seed: int

    @cached_property
    def _records(self) -> DecodedRecords:
        return DecodedRecords(self.source, keep=3 * self.plan.pixels <= KEPT_BYTES)

    def __call__(self, step: int) -> TrainBatch:
        bucket_number, numbers = self.plan[step]
        bucket, substitutes = self.plan.buckets[bucket_number], self.plan.fitting(bucket_number)
        examples = []
        for slot in self.slots:
            rng = np.random.default_rng((self.seed, step, slot))
            examples.append(choose_example(self._records, int(numbers[slot]), substitutes, self.spec, bucket, rng))
        return pack(examples, self.slots, bucket, self.spec.strides)


def train_batches(
    source: Records,
    spec: TrainSpec,
    plan: BatchPlan,
    start_step: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    workers: int,
    seed: int,
) -> Iterator[TrainBatch]:
    """Yields batches of the steps from `start_step` on, endlessly: this process's share of each global batch.

    Args:
      source: records; pickled to each worker process.
      process_index, process_count: share of the global batch: contiguous rows.
      workers: processes that load whole batches in turn; 0: a thread of this process.

    Raises:
      ValueError: the batch cannot be shared evenly; scales exceed the plan's; later, an invalid record (one line).
    """
    if plan.batch_size % process_count:
        raise InvalidInput(f"batch_size={plan.batch_size} cannot be shared evenly by {process_count} processes")
    if not spec.random_crop and max(spec.long_edges) > plan.long_edge_max:
        raise InvalidInput(
            f"long edge {max(spec.long_edges)} is more than the plan's buckets hold: {plan.long_edge_max}"
        )
    local = plan.batch_size // process_count
    slots = range(process_index * local, (process_index + 1) * local)
    loader = BatchLoader(source, spec, plan, slots, seed)
    return _load(grain.MapDataset.range(start_step, sys.maxsize).map(loader), workers)


def _load(dataset: "grain.MapDataset[T]", workers: int) -> Iterator[T]:
    """Yields the dataset's elements in order, loaded ahead by `workers` processes, or by a thread if 0.

    An error in a worker is raised as the same error, of one line.
    """
    if not flags.FLAGS.is_parsed():  # grain reads absl flags, which are not parsed in tests and notebooks
        flags.FLAGS.mark_as_parsed()
    ahead = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1 if workers else 2))
    if workers:
        start_in_own_session()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
        ahead = ahead.mp_prefetch(options, worker_init_fn=_start_worker)
    elements = iter(ahead)
    try:
        yield from elements
    except RuntimeError as error:
        if "terminated unexpectedly" not in str(error):
            raise
        raise WorkerDied(
            "a data worker process died: out of memory or of /dev/shm (fewer workers need less), or started by a "
            "script without `if __name__ == '__main__':`"
        ) from error
    finally:
        elements.close()
        # The closed pipeline holds shared memory in reference cycles, which would be reported as leaked at exit.
        del elements, ahead
        gc.collect()


def _start_worker(index: int, count: int) -> None:
    keep_freed_memory()  # a batch has some megabytes, whose pages the kernel would zero again for every batch
    cv2.setNumThreads(0)  # the processes already use all cores
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # sent to the whole process group, but handled by the parent
        if number := getattr(signal, name, None):  # Windows has no SIGHUP
            signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """Ends this worker if its parent is killed, which grain's workers do not notice."""
    multiprocessing.parent_process().join()
    os._exit(1)
