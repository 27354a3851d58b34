"""Checks a split: decodes every image and every mask once; reports and skips invalid data."""

from dataclasses import dataclass
from functools import partial

from fastmask_jax.data.coco.instances import CocoImage, CocoSplit
from fastmask_jax.data.coco.objects import CocoObject, Found, objects_of
from fastmask_jax.data.coco.problem_report import Problem
from fastmask_jax.data.exif import SIDEWAYS, UPRIGHT, Exif, orientation_of
from fastmask_jax.data.image_file import decode_image
from fastmask_jax.data.image_header import MAX_PIXELS, TooManyPixels
from fastmask_jax.data.process_map import map_in_order


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """A decodable image with its usable objects."""

    image: CocoImage  # without its annotation entries
    size: tuple[int, int]  # (height, width) of the file; with exif="apply", of the upright image
    file_bytes: int
    objects: list[CocoObject]
    orientation: int  # EXIF orientation to apply to the pixels: the file's with exif="apply", otherwise 1


def check(split: CocoSplit, workers: int, exif: Exif = "ignore", max_pixels: int = MAX_PIXELS) -> list[CheckedImage]:
    """Yields the usable images of a split in order; adds problems to `split.report` and shows a progress bar.

    Args:
      split: images with `path`s.
      workers: processes; 0: none besides this one.
      exif: whether masks refer to the pixels as stored or to the upright image; see `image_file.decode_image`.
      max_pixels: larger images are reported as problems and not decoded.

    Raises:
      WorkerDied: a worker was killed.
    """
    checked: list[CheckedImage] = []
    for usable, found in map_in_order(
        partial(check_image, exif=exif, max_pixels=max_pixels), split.images, workers, "checking"
    ):
        split.report.extend(found)
        if usable is not None:
            checked.append(usable)
    return checked


def check_image(
    image: CocoImage, exif: Exif = "ignore", max_pixels: int = MAX_PIXELS
) -> tuple[CheckedImage | None, Found]:
    """Decodes an image file and creates its objects; returns (None, problems) if the image cannot be used."""
    lost = [(Problem.OBJECT_OF_LOST_IMAGE, f"{a['id']} (image {image.image_id})") for a in image.annotations]
    try:
        data = image.path.read_bytes()
        height, width = decode_image(data, exif, max_pixels).shape[:2]
    except TooManyPixels as error:
        return None, [(Problem.IMAGE_LARGE, f"{image.file_name}: {error}"), *lost]
    except (OSError, ValueError):
        return None, [(Problem.IMAGE_BROKEN, image.file_name), *lost]
    orientation = orientation_of(data)
    if image.size not in (None, (height, width)):
        return None, [(Problem.IMAGE_SIZE, different_size(image, (height, width), orientation, exif)), *lost]
    objects, found = objects_of(image.annotations, (height, width), image.file_name)
    if exif == "ignore" and orientation != UPRIGHT:
        found.append((Problem.IMAGE_TURNED, f"{image.file_name} ({orientation})"))
    bare = CocoImage(image.image_id, image.file_name, image.path, image.size)
    turn = orientation if exif == "apply" else UPRIGHT
    return CheckedImage(bare, (height, width), len(data), objects, turn), found


def different_size(image: CocoImage, size: tuple[int, int], orientation: int, exif: Exif) -> str:
    """Describes an image whose file has another (height, width) than its entry, and whether EXIF is the cause."""
    said = f"file {size[0]}x{size[1]}, entry {image.size[0]}x{image.size[1]}"
    if orientation in SIDEWAYS and image.size == size[::-1]:
        said += f", EXIF orientation {orientation}: use exif={'ignore' if exif == 'apply' else 'apply'}"
    return f"{image.file_name} ({said})"
