"""Streams proposals of image files: results, pictures and progress, image by image."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fastmask_jax.apps.predict.formats.annotated_image import AnnotatedImage, Write
from fastmask_jax.apps.predict.input_files import FoundFile, image_ids
from fastmask_jax.apps.predict.uninterrupted import uninterrupted
from fastmask_jax.data.exif import UPRIGHT
from fastmask_jax.errors import InvalidInput
from fastmask_jax.inference.generator import ProposalGenerator
from fastmask_jax.inference.options import ProposeOptions
from fastmask_jax.inference.ordered_map import ordered_map
from fastmask_jax.inference.proposals import Proposals
from fastmask_jax.masks.coco_results import JsonListWriter

RESULTS, LISTED = "results.json", "images.json"
PICTURE_THREADS = 4


class Predicted(NamedTuple):
    """Numbers of images and proposals that were written."""

    images: int
    proposals: int
    unreadable: int
    turned: int  # images with an EXIF orientation
    interrupted: bool


def predict_images(
    generator: ProposalGenerator,
    files: Sequence[FoundFile],
    options: ProposeOptions,
    folder: Path,
    write_pictures: Callable[[str, Proposals], None],
    report: Callable[[str], None],
    progress: Callable[[], object] = lambda: None,
    write_formats: Write = lambda image: None,
) -> Predicted:
    """Writes `folder`/results.json, COCO results of all images, and images.json, the file of each image id.

    Both are in the order of the files; memory does not grow with their number. After Ctrl-C the files are valid and
    contain the work so far.

    Args:
      files: the image files; `image_ids` gives their ids in the results.
      write_pictures: called with the name and the proposals of each image, in a thread.
      report: called with a line for each unreadable image, which is skipped.
      progress: called after each image, readable or not.
      write_formats: called with each image and its proposals, in order.

    Raises:
      ValueError: no image is readable. OSError: a file cannot be written.
    """
    unreadable = images = turned = 0
    interrupted = False

    def pictured(one: tuple[FoundFile, Proposals | None]) -> Proposals | None:
        file, proposals = one
        if proposals is not None:
            write_pictures(file.name, proposals)
        return proposals

    def proposed() -> Iterator[tuple[FoundFile, Proposals | None]]:
        paths = (file.path for file in files)
        found = generator.propose_iter(paths, options, on_problem=lambda line: report(f"skipped: {line}"))
        yield from zip(files, found, strict=True)

    ids = image_ids([file.path for file in files])
    with JsonListWriter(folder / RESULTS) as results, JsonListWriter(folder / LISTED) as listed:
        try:
            written = ordered_map(pictured, proposed(), PICTURE_THREADS)
            for image_id, file, proposals in zip(ids, files, written, strict=True):
                if proposals is None:
                    unreadable += 1
                else:
                    height, width = proposals.image_size
                    with uninterrupted():
                        listed.append({"id": image_id, "file_name": str(file.path), "height": height, "width": width})
                        for entry in proposals.to_results(image_id):
                            results.append(entry)
                        write_formats(AnnotatedImage(image_id, file.path, file.name, proposals))
                    images += 1
                    turned += proposals.orientation != UPRIGHT
                progress()
        except KeyboardInterrupt:
            interrupted = True
        if images == 0 and not interrupted:
            raise InvalidInput(f"none of {len(files)} images could be read; {results.path} is not written")
    return Predicted(images, results.entries, unreadable, turned, interrupted)
