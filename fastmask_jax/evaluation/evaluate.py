"""From a network and a COCO split to proposals on disk and average recall."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastmask_jax.data.batches import InferenceBatch
from fastmask_jax.data.coco.instances import read_instances
from fastmask_jax.data.pipeline import inference_batches
from fastmask_jax.errors import InvalidInput, MissingFile
from fastmask_jax.evaluation.average_recall import average_recall
from fastmask_jax.geometry import choose_bucket
from fastmask_jax.inference.proposer import Proposer
from fastmask_jax.inference.proposing import ImageProposals, propose_all
from fastmask_jax.masks.coco_results import ResultsWriter


def evaluate(
    proposer: Proposer,
    settings: Mapping[str, Any],
    results: Path,
    report: Callable[[str], None],
    watch: Callable[[Iterable[ImageProposals], int], Iterable[ImageProposals]] = lambda proposals, _: proposals,
) -> dict[str, float]:
    """Writes proposals of a split to `results` (COCO results JSON) and scores them.

    Args:
      proposer: the network; `settings["proposals"]` should be its count.
      settings: the config's `evaluation` section: annotations, images, limit, buckets, long_edge, batch_size,
        mask_threshold, rerank_iou, workers.
      report: gets a line for each image that cannot be read.
      watch: wraps the iteration over (proposals, number of images), for a progress bar.

    Returns:
      The metrics of `average_recall`, `images` (how many were read), `unreadable`, and `seconds_per_image`: wall time
      of reading, network and pasting together, without each bucket's first batch, which compiles; NaN where there is
      no other. An unreadable image counts as one without proposals.

    Errors:
      FileNotFoundError, ValueError: annotations that are missing or broken, an image larger than every bucket, or
      none that can be read; one line.
    """
    annotations, folder = Path(settings["annotations"]), Path(settings["images"])
    if not folder.is_dir():
        raise MissingFile(f"evaluation.images={folder}: no such folder")
    split = read_instances(annotations, None)
    chosen = sorted(split.images, key=lambda image: image.image_id)[: settings["limit"] or None]
    for size in {image.size for image in chosen if image.size}:
        choose_bucket(*size, settings["long_edge"], settings["buckets"])  # known now rather than hours later
    unreadable: list[str] = []

    def on_problem(line: str) -> None:
        unreadable.append(line)
        report(line)

    batches = inference_batches(
        [(image.image_id, folder / image.file_name) for image in chosen],
        settings["buckets"],
        settings["long_edge"],
        settings["batch_size"] * proposer.devices,
        settings["workers"],
        on_problem,
    )
    clock = _Clock()
    done = 0
    with ResultsWriter(results) as writer:
        for image_id, proposals in watch(
            propose_all(proposer, clock.watched(batches), settings["mask_threshold"], settings["rerank_iou"]),
            len(chosen),
        ):
            writer.write(image_id, proposals)
            done += 1
    if done == 0:
        raise InvalidInput(f"none of the {len(chosen)} images of {annotations} could be read in {folder}")
    metrics = average_recall(annotations, results, image_ids=[image.image_id for image in chosen])
    return {
        **metrics,
        "images": done,
        "unreadable": len(unreadable),
        "seconds_per_image": clock.seconds_per_image,
    }


class _Clock:
    """Seconds per image, without the batches that compile: the first of every bucket."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._seen: set[tuple[int, ...]] = set()
        self._seconds = 0.0
        self._images = 0

    def watched(self, batches: Iterable[InferenceBatch]) -> Iterator[InferenceBatch]:
        """The batches; a batch's time is that from asking for it to asking for the next, reading included."""
        begin = self._now()
        for batch in batches:
            yield batch
            end = self._now()
            if batch.image.shape in self._seen:
                self._seconds += end - begin
                self._images += int(np.sum(batch.image_id >= 0))
            self._seen.add(batch.image.shape)
            begin = end

    @property
    def seconds_per_image(self) -> float:
        return self._seconds / self._images if self._images else float("nan")
