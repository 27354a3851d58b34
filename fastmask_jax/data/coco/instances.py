"""COCO-format instance annotations: the JSON file is read and its entries checked and put with their images.

What needs an image's size (polygons, run lengths) is checked in `objects`, what needs its bytes in `image_check`.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastmask_jax.data.coco.problem_report import Problem, ProblemReport
from fastmask_jax.errors import InvalidInput, MissingFile

_INT64 = 1 << 63


@dataclass(frozen=True)
class CocoImage:
    """An image entry with its annotation entries, as they stand in the JSON."""

    image_id: int
    file_name: str
    path: Path | None  # None where no image folder was given
    size: tuple[int, int] | None  # (height, width) by the JSON; None where it does not say
    annotations: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class CocoSplit:
    """The usable images of one annotation file, sorted by id, and what was wrong with the others."""

    images: list[CocoImage]
    report: ProblemReport


def read_instances(annotations: Path, images: Path | None) -> CocoSplit:
    """Reads an instances JSON; checks ids, file names and that the image files exist (they are not opened).

    Args:
      annotations: the JSON file. `area`, `iscrowd`, `bbox` of annotations and `height`, `width` of images are optional.
      images: folder of the image files; None: files are not looked for.

    Errors:
      FileNotFoundError: no such annotation file or image folder.
      ValueError: the file is not whole JSON, or not of the COCO format.
    """
    if images is not None and not images.is_dir():
        raise MissingFile(f"{images}: no such image folder; give the folder that the file names are relative to")
    content = _load(annotations)
    report = ProblemReport()
    usable: dict[int, CocoImage] = {}
    lost: set[int] = set()
    for number, entry in enumerate(_entries(content, "images", annotations)):
        image = _image(entry, images, f"images[{number}]", usable, report)
        if image is not None:
            usable[image.image_id] = image
        elif _is_id(entry.get("id")) and entry["id"] not in usable:
            lost.add(entry["id"])
    _assign(_entries(content, "annotations", annotations), usable, lost, report)
    return CocoSplit([usable[image_id] for image_id in sorted(usable)], report)


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        raise MissingFile(f"{path}: no such annotation file") from None
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"{path}: not readable: {error}") from None
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{path}: not whole JSON (truncated download?): {error}") from None
    if not isinstance(content, dict):
        raise InvalidInput(f"{path}: a COCO file holds an object, this one a {type(content).__name__}")
    return content


def _entries(content: dict[str, Any], key: str, path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a list of the file; what is no JSON object becomes an entry without keys, and so is counted."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise InvalidInput(f"{path}: no list {key!r}; is this a COCO instances file?")
    return (entry if isinstance(entry, dict) else {} for entry in entries)


def _is_id(value: Any) -> bool:
    return type(value) is int and -_INT64 <= value < _INT64


def _image(
    entry: dict[str, Any], folder: Path | None, where: str, known: dict[int, CocoImage], report: ProblemReport
) -> CocoImage | None:
    """The image of an entry, or None with the reason counted."""
    image_id, name = entry.get("id"), entry.get("file_name")
    if not _is_id(image_id) or not isinstance(name, str) or not name or "\0" in name:
        report.add(Problem.IMAGE_ENTRY, where)
    elif image_id in known:
        report.add(Problem.IMAGE_ID_TWICE, f"{image_id} ({name})")
    elif os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir:
        report.add(Problem.IMAGE_OUTSIDE_FOLDER, name)
    elif folder is not None and not (folder / name).is_file():
        report.add(Problem.IMAGE_MISSING, name)
    else:
        return CocoImage(image_id, name, folder and folder / name, _size(entry))
    return None


def _size(entry: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width) of an image entry; None where it has none. A size that is no size fits no file, and is kept."""
    sides = entry.get("height"), entry.get("width")
    if None in sides:
        return None
    return tuple(int(side) if isinstance(side, int | float) and side % 1 == 0 else 0 for side in sides)


def _assign(
    entries: Iterator[dict[str, Any]], images: dict[int, CocoImage], lost: set[int], report: ProblemReport
) -> None:
    """Appends annotation entries to their images, in the file's order."""
    seen: set[int] = set()
    for number, entry in enumerate(entries):
        object_id, image_id = entry.get("id"), entry.get("image_id")
        if not _is_id(object_id) or not _is_id(image_id):
            report.add(Problem.OBJECT_ENTRY, f"annotations[{number}]")
        elif object_id in seen:
            report.add(Problem.OBJECT_ID_TWICE, f"{object_id} (annotations[{number}])")
        elif image_id in images:
            seen.add(object_id)
            images[image_id].annotations.append(entry)
        elif image_id in lost:
            report.add(Problem.OBJECT_OF_LOST_IMAGE, f"{object_id} (image {image_id})")
        else:
            report.add(Problem.OBJECT_OF_UNKNOWN_IMAGE, f"{object_id} (image {image_id})")
