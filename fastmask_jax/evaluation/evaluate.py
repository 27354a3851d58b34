"""Evaluates a network on a COCO split: proposals on disk, and average recall."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from fastmask_jax.data.coco.instances import read_instances
from fastmask_jax.errors import InvalidInput, MissingFile
from fastmask_jax.evaluation.average_recall import average_recall
from fastmask_jax.inference.generator import ProposalGenerator
from fastmask_jax.inference.proposals import Proposals
from fastmask_jax.masks.coco_results import ResultsWriter

Found = Iterable[Proposals | None]


def evaluate(
    generator: ProposalGenerator,
    results: Path,
    report: Callable[[str], None],
    watch: Callable[[Found, int], Found] = lambda found, _: found,
) -> dict[str, float]:
    """Writes the proposals of a split to `results` (COCO results JSON) and scores them.

    Args:
      generator: network; the `evaluation` section of its config names the split and the options.
      report: called with a line for each unreadable image.
      watch: wraps the iteration over (proposals, number of images), for a progress bar.

    Returns:
      The metrics of `average_recall`; `images`, the number of images read; `unreadable`, the number of unreadable
      images, which count as images without proposals; `seconds_per_image`, wall time of reading, network and mask
      pasting, without compilation.

    Raises:
      FileNotFoundError, ValueError: annotations are missing or broken, or no image can be read; one line.
    """
    settings = generator.config.evaluation
    annotations, folder = Path(settings.annotations), Path(settings.images)
    if not folder.is_dir():
        raise MissingFile(f"evaluation.images={folder}: no such folder")
    split = read_instances(annotations, None)
    images = sorted(split.images, key=lambda image: image.image_id)[: settings.limit or None]
    problems: list[str] = []
    found = generator.propose_iter(
        [folder / image.file_name for image in images],
        count=settings.proposals,
        batch_size=settings.batch_size,
        on_problem=problems.append,
    )
    begin, compiled_before = time.perf_counter(), generator.compile_seconds
    with ResultsWriter(results) as writer:
        for image, proposals in zip(images, watch(found, len(images)), strict=True):
            if proposals is None:
                report(f"image {image.image_id} skipped: {problems[-1]}")
            else:
                writer.write(image.image_id, proposals.scored_masks)
        done = len(images) - len(problems)
        if done == 0:
            raise InvalidInput(f"none of the {len(images)} images of {annotations} could be read in {folder}")
    seconds = time.perf_counter() - begin - (generator.compile_seconds - compiled_before)
    metrics = average_recall(annotations, results, image_ids=[image.image_id for image in images])
    return {**metrics, "images": done, "unreadable": len(problems), "seconds_per_image": seconds / done}
