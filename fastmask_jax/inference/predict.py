"""Proposals of any image files, written as COCO results (spec section 3)."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastmask_jax.data.pipeline import use_batches
from fastmask_jax.inference.proposer import Proposer
from fastmask_jax.inference.proposing import propose_all
from fastmask_jax.inference.results import ResultsWriter

_NUMBER = re.compile(r"(\d+)$")


class Predicted(NamedTuple):
    """What was written."""

    images: int
    proposals: int
    unreadable: int


def image_ids(paths: Sequence[Path]) -> list[int]:
    """The number that each file's name ends with (COCO_val2014_000000000042.jpg → 42).

    Where a name has none, or two have the same, all are numbered in their order instead, from 1.
    """
    numbers = [_NUMBER.search(path.stem) for path in paths]
    found = [int(match[1]) for match in numbers if match]
    usable = len(found) == len(set(found)) == len(paths) and max(found, default=0) <= np.iinfo(np.int64).max
    return found if usable else list(range(1, len(paths) + 1))


def predict_files(
    proposer: Proposer,
    paths: Sequence[Path],
    settings: Mapping[str, Any],
    results: Path,
    report: Callable[[str], None],
) -> Predicted:
    """Writes the proposals of image files to `results`, image by image, best first.

    Args:
      proposer: the network.
      paths: of the images; `image_ids` says what they are called in the results.
      settings: the config's `evaluation` section: buckets, long_edge, batch_size, mask_threshold.
      results: the file to write.
      report: gets a line for each image that cannot be read, which is left out.

    Errors:
      ValueError: no image, or none that can be read; or one that is larger than every bucket.
    """
    unreadable = 0

    def on_problem(line: str) -> None:
        nonlocal unreadable
        unreadable += 1
        report(line)

    batches = use_batches(
        list(zip(image_ids(paths), paths, strict=True)),
        settings["buckets"],
        settings["long_edge"],
        settings["batch_size"] * proposer.devices,
        0,
        on_problem,
    )
    images = 0
    with ResultsWriter(results) as writer:
        for image_id, proposals in propose_all(proposer, batches, settings["mask_threshold"]):
            writer.write(image_id, proposals)
            images += 1
        if images == 0:
            raise ValueError(f"none of {len(paths)} images could be read; {results} is not written")
    return Predicted(images, writer.entries, unreadable)
