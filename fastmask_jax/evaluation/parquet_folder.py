"""Matches the results of fastmask propose-dataset with the image ids of an annotation file."""

import logging
from collections import Counter
from pathlib import Path, PurePosixPath

from fastmask_jax.data.coco.instances import read_instances
from fastmask_jax.errors import InvalidInput
from fastmask_jax.masks.parquet_results import ParquetResults

log = logging.getLogger(__name__)


def parquet_results(folder: Path, annotations: Path) -> ParquetResults:
    """Opens a results folder for scoring against annotations.

    Images are matched by file name: with folders first, then without folders if that name is unique. Rows of Parquet
    files may also match by id.

    Raises:
      FileNotFoundError, ValueError: no such folder, shards are missing, or none of its images is listed; one line.
    """
    listed = read_instances(Path(annotations), None).images
    by_name = {image.file_name: image.image_id for image in listed}
    ends = Counter(_end(image.file_name) for image in listed)
    by_end = {_end(image.file_name): image.image_id for image in listed if ends[_end(image.file_name)] == 1}
    ids = {str(image.image_id): image.image_id for image in listed}

    def image_id(name: str) -> int | None:
        for known, key in ((by_name, name), (by_end, _end(name)), (ids, name)):
            if key in known:
                return known[key]
        return None

    results = ParquetResults(folder, image_id)
    known = results.known_images()
    if not known:
        raise InvalidInput(f"{folder}: none of its images is in {annotations}, neither by file name nor by id")
    if results.images > known:
        log.warning("%s: %d images are not in %s, and are not scored", folder, results.images - known, annotations)
    return results


def _end(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name
