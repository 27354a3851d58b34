"""Reads COCO instance annotations: parses the JSON file, checks its entries and groups them by image.

`objects` checks what needs the image size (polygons, run lengths), `image_check` what needs the image file.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastmask_jax.data.coco.file_names import image_path, leads_out
from fastmask_jax.data.coco.problem_report import Problem, ProblemReport
from fastmask_jax.errors import InvalidInput, MissingFile, printable, shown
from fastmask_jax.foreign_json import decoded, is_shallow, whole_number
from fastmask_jax.masks.rle import MOST_PIXELS, MOST_SIDE


@dataclass(frozen=True)
class CocoImage:
    """An image entry with its annotation entries, as in the JSON file."""

    image_id: int
    file_name: str  # below the image folder, where one was given
    path: Path | None  # None where no image folder was given
    size: tuple[int, int] | None  # (height, width) by the JSON; None where it does not say
    annotations: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class CocoSplit:
    """The usable images of one annotation file, sorted by id, and a report on the others."""

    images: list[CocoImage]
    report: ProblemReport
    categories: list[Any] = field(default_factory=list)  # as in the JSON file; not used


def read_instances(annotations: Path, images: Path | None) -> CocoSplit:
    """Reads an instances JSON; checks ids, file names and that the image files exist (they are not opened).

    Args:
      annotations: the JSON file. `area`, `iscrowd`, `bbox` of annotations and `height`, `width` of images are optional.
        Whole numbers may stand as 7, 7.0 or "7". Ids of annotations are unique within their image.
      images: folder of the image files; None: files are not checked.

    Raises:
      FileNotFoundError: no such annotation file or image folder.
      ValueError: the file is not complete JSON, or not in COCO format.
    """
    if images is not None and not images.is_dir():
        raise MissingFile(f"{images}: no such image folder; pass the folder that the file names are relative to")
    content = _load(annotations)
    report = ProblemReport()
    usable: dict[int, CocoImage] = {}
    lost: set[int | None] = set()
    files: dict[str, str] = {}
    for number, entry in enumerate(_entries(content, "images", annotations)):
        image = _image(entry, images, f"images[{number}]", usable, report)
        if image is not None:
            usable[image.image_id] = image
            if image.file_name in files:
                names = f"{files[image.file_name]}, {entry['file_name']}"
                report.add(Problem.IMAGE_FILE_TWICE, f"{image.file_name} ({names})")
            else:
                files[image.file_name] = entry["file_name"]
        else:
            lost.add(whole_number(entry.get("id")))
    lost -= {None, *usable}
    _assign(_entries(content, "annotations", annotations), usable, lost, report)
    categories = content.get("categories")
    images_by_id = [usable[image_id] for image_id in sorted(usable)]
    return CocoSplit(
        images_by_id, report, categories if isinstance(categories, list) and is_shallow(categories) else []
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        content = decoded(path.read_bytes(), path)
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such annotation file") from None
    except OSError as error:
        raise InvalidInput(f"{path}: not readable: {error}") from None
    if not isinstance(content, dict):
        raise InvalidInput(f"{path}: expected a JSON object, as in COCO files, not a {type(content).__name__}")
    return content


def _entries(content: dict[str, Any], key: str, path: Path) -> Iterator[dict[str, Any]]:
    """Yields the entries of a list; for anything but a JSON object, an entry without keys, to be counted."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise InvalidInput(f"{path}: no list {key!r}; is this a COCO instances file?")
    return (entry if isinstance(entry, dict) else {} for entry in entries)


def _image(
    entry: dict[str, Any], folder: Path | None, where: str, known: dict[int, CocoImage], report: ProblemReport
) -> CocoImage | None:
    """Returns the image of an entry, or None, with the problem counted."""
    image_id, name = whole_number(entry.get("id")), entry.get("file_name")
    if image_id is None or not isinstance(name, str) or not _is_file_name(name):
        report.add(Problem.IMAGE_ENTRY, where)
    elif image_id in known:
        report.add(Problem.IMAGE_ID_TWICE, f"{image_id} ({name})")
    elif leads_out(folder, name):
        report.add(Problem.IMAGE_OUTSIDE_FOLDER, name)
    elif folder is not None and not os.path.isfile(path := image_path(folder, name)):
        report.add(Problem.IMAGE_MISSING, name)
    else:
        size = _size(entry)
        if size == ():
            sides = f"height {shown(entry['height'])}, width {shown(entry['width'])}"
            report.add(Problem.IMAGE_NO_SIZE, f"{image_id} ({name}: {sides})")
        if folder is None:
            return CocoImage(image_id, name, None, size or None)
        return CocoImage(image_id, Path(os.path.relpath(path, folder)).as_posix(), path, size or None)
    return None


def _is_file_name(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates
        return False
    return bool(name) and "\0" not in name


def _size(entry: dict[str, Any]) -> tuple[int, ...] | None:
    """Returns (height, width) of an image entry; None if missing, () if invalid."""
    sides = entry.get("height"), entry.get("width")
    if None in sides:
        return None
    numbers = tuple(whole_number(side) for side in sides)
    if None in numbers or min(numbers) < 1 or max(numbers) > MOST_SIDE or math.prod(numbers) > MOST_PIXELS:
        return ()
    return numbers


def check_sizes(images: Sequence[CocoImage], annotations: Path) -> None:
    """Raises a ValueError that names the file and the first image, if an image has no height and width."""
    without = [image for image in images if image.size is None]
    if without:
        raise InvalidInput(
            f"{annotations}: image {without[0].image_id} ({printable(without[0].file_name)}) has no height and width "
            f"({len(without)} of {len(images)} images have none): average recall needs them, up to {MOST_SIDE} pixels"
        )


def _assign(
    entries: Iterator[dict[str, Any]], images: dict[int, CocoImage], lost: set[int], report: ProblemReport
) -> None:
    """Appends annotation entries to their images, in the file's order, with integer `id` and `category_id`."""
    seen: set[tuple[int, int]] = set()
    for number, entry in enumerate(entries):
        object_id, image_id = whole_number(entry.get("id")), whole_number(entry.get("image_id"))
        if object_id is None or image_id is None:
            report.add(Problem.OBJECT_ENTRY, f"annotations[{number}]")
        elif not is_shallow(entry):
            report.add(Problem.OBJECT_NESTED, f"{object_id} (annotations[{number}])")
        elif (image_id, object_id) in seen:
            report.add(Problem.OBJECT_ID_TWICE, f"{object_id} (annotations[{number}])")
        elif image_id in images:
            seen.add((image_id, object_id))
            category = whole_number(entry.get("category_id")) or 0
            images[image_id].annotations.append(entry | {"id": object_id, "category_id": category})
        elif image_id in lost:
            report.add(Problem.OBJECT_OF_LOST_IMAGE, f"{object_id} (image {image_id})")
        else:
            report.add(Problem.OBJECT_OF_UNKNOWN_IMAGE, f"{object_id} (image {image_id})")
