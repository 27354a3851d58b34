"""Evaluates a network on a COCO split: proposals on disk, and average recall."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from fastmask_jax.data.coco.file_names import image_path
from fastmask_jax.data.coco.image_check import different_size
from fastmask_jax.data.coco.instances import check_sizes, read_instances
from fastmask_jax.data.exif import UPRIGHT, orientation_of
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
    images = read_instances(annotations, None).images[: settings.limit or None]
    check_sizes(images, annotations)
    paths = [image_path(folder, image.file_name) for image in images]
    problems: list[str] = []
    turned = 0
    found = generator.propose_iter(
        paths,
        count=settings.proposals,
        batch_size=settings.batch_size,
        on_problem=problems.append,
    )
    begin, compiled_before = time.perf_counter(), generator.compile_seconds
    with ResultsWriter(results) as writer:
        for image, path, proposals in zip(images, paths, watch(found, len(images)), strict=True):
            orientation = orientation_of(path)
            turned += orientation != UPRIGHT
            if proposals is not None and proposals.image_size != image.size:
                problems.append(different_size(image, proposals.image_size, orientation, settings.exif))
                proposals = None
            if proposals is None:
                report(f"image {image.image_id} skipped: {problems[-1]}")
            else:
                writer.write(image.image_id, proposals.scored_masks)
        done = len(images) - len(problems)
        if done == 0:
            raise InvalidInput(f"none of the {len(images)} images of {annotations} could be read in {folder}")
    if turned:
        done_with = "were turned by" if settings.exif == "apply" else "are of the pixels as stored, without"
        report(f"EXIF orientation: masks of {turned} images {done_with} it (evaluation.exif={settings.exif})")
    seconds = time.perf_counter() - begin - (generator.compile_seconds - compiled_before)
    metrics = average_recall(annotations, results, image_ids=[image.image_id for image in images])
    return {**metrics, "images": done, "unreadable": len(problems), "seconds_per_image": seconds / done}
