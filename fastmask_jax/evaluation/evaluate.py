"""Evaluates a network on a COCO split: proposals on disk, and average recall. Several processes share the images."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from fastmask_jax import cluster
from fastmask_jax.data.coco.file_names import image_path
from fastmask_jax.data.coco.image_check import different_size
from fastmask_jax.data.coco.instances import CocoImage, check_sizes, read_instances
from fastmask_jax.data.exif import UPRIGHT
from fastmask_jax.errors import InvalidInput, MissingFile
from fastmask_jax.evaluation.average_recall import average_recall
from fastmask_jax.inference.generator import ProposalGenerator
from fastmask_jax.inference.proposals import Proposals
from fastmask_jax.masks.coco_results import ResultsWriter

Found = Iterable[Proposals | None]


class _Part(NamedTuple):
    """The results of one process."""

    problems: list[str]  # one line per unreadable image
    turned: int  # images with an EXIF orientation
    seconds: float
    stopped: bool


def evaluate(
    generator: ProposalGenerator,
    results: Path,
    report: Callable[[str], None],
    watch: Callable[[Found, int], Found] = lambda found, _: found,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Writes the proposals of a split to `results` (COCO results JSON) and scores them.

    In a cluster each process takes a contiguous share of the images and writes `<results>.<process>-of-<processes>`;
    process 0 joins these files in the images' order, scores the whole and reports.

    Args:
      generator: network; the `evaluation` section of its config names the split and the options.
      results: on a disk that all processes share.
      report: called with a line for each unreadable image.
      watch: wraps the iteration over (proposals, number of images) of this process, for a progress bar.
      stop: called after each image; returns whether to stop.

    Returns:
      The metrics of `average_recall`; `images`, the number of images read; `unreadable`, the number of unreadable
      images, which count as images without proposals; `seconds_per_image`, wall time of reading, network and mask
      pasting, without compilation. The same in every process; None if `stop` said so in any.

    Raises:
      FileNotFoundError, ValueError: annotations are missing or broken, or no image can be read; one line.
    """
    settings = generator.config.evaluation
    annotations, folder = Path(settings.annotations), Path(settings.images)
    if not folder.is_dir():
        raise MissingFile(f"evaluation.images={folder}: no such folder")
    images = read_instances(annotations, None).images[: settings.limit or None]
    check_sizes(images, annotations)
    own = _part_of(results, cluster.process())
    part = _propose(generator, cluster.share(images), own, report, watch, stop)
    parts = [_Part(*each) for each in cluster.gather(part)]
    if any(part.stopped for part in parts):
        return None
    problems = [line for part in parts for line in part.problems]
    done = len(images) - len(problems)
    if done == 0:
        raise InvalidInput(f"none of the {len(images)} images of {annotations} could be read in {folder}")
    metrics = None
    if cluster.process() == 0:
        for line in problems[len(part.problems) :]:  # problems of the other processes: this process's come first
            report(line)
        if turned := sum(part.turned for part in parts):
            done_with = "were turned by" if settings.exif == "apply" else "are of the pixels as stored, without"
            report(f"EXIF orientation: masks of {turned} images {done_with} it (evaluation.exif={settings.exif})")
        _join_parts(results)
        metrics = average_recall(annotations, results, image_ids=[image.image_id for image in images])
    metrics = cluster.gather(metrics)[0]
    seconds = max(part.seconds for part in parts)
    return {**metrics, "images": done, "unreadable": len(problems), "seconds_per_image": seconds / done}


def _propose(
    generator: ProposalGenerator,
    images: Sequence[CocoImage],
    results: Path,
    report: Callable[[str], None],
    watch: Callable[[Found, int], Found],
    stop: Callable[[], bool],
) -> _Part:
    """Writes the proposals of some images to a results file, which remains incomplete after a stop."""
    settings = generator.config.evaluation
    paths = [image_path(Path(settings.images), image.file_name) for image in images]
    unread: list[str] = []
    problems: list[str] = []
    turned = 0
    found = generator.propose_iter(
        paths, count=settings.proposals, batch_size=settings.batch_size, on_problem=unread.append
    )
    begin, compiled_before = time.perf_counter(), generator.compile_seconds
    with ResultsWriter(results) as writer:
        for image, proposals in zip(images, watch(found, len(images)), strict=True):
            if stop():
                found.close()
                return _Part(problems, turned, 0.0, stopped=True)
            problem = None
            if proposals is None:
                problem = unread[-1]
            else:
                turned += proposals.orientation != UPRIGHT
                if proposals.image_size != image.size:
                    problem = different_size(image, proposals.image_size, proposals.orientation, settings.exif)
            if problem:
                problems.append(f"image {image.image_id} skipped: {problem}")
                report(problems[-1])
            else:
                writer.write(image.image_id, proposals.scored_masks)
    seconds = time.perf_counter() - begin - (generator.compile_seconds - compiled_before)
    return _Part(problems, turned, seconds, stopped=False)


def _part_of(results: Path, process: int) -> Path:
    return results.with_name(f"{results.name}.{process}-of-{cluster.processes()}")


def _join_parts(results: Path) -> None:
    parts = [_part_of(results, process) for process in range(cluster.processes())]
    if len(parts) == 1:
        parts[0].replace(results)
        return
    with ResultsWriter(results) as writer:
        for number, part in enumerate(parts):
            if not part.is_file():
                raise MissingFile(
                    f"{part}: process {number} wrote it, but it is not seen here: {results.parent} must "
                    "be shared by all hosts"
                )
            writer.append_all(part)
    for part in parts:
        part.unlink()
