"""Computes average recall of class-agnostic proposals by COCO's protocol (docs/network.md §3), for any results file.

Recall is the number of found objects divided by the number of objects. Images are scored one by one and the counts are
added, so the proposals of 5000 images need not fit into memory.
"""

import itertools
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64
from pycocotools import mask as coco_mask

from fastmask_jax.data.coco.instances import check_sizes, read_instances
from fastmask_jax.data.coco.objects import CocoObject, objects_of
from fastmask_jax.data.coco.problem_report import Problem
from fastmask_jax.errors import InvalidInput, shown
from fastmask_jax.evaluation.cocoeval import recall_of_cocoeval
from fastmask_jax.evaluation.matching import box_pairs, found_objects, mask_pairs
from fastmask_jax.foreign_json import plain
from fastmask_jax.masks.coco_results import is_finite, is_given, read_results, valid_entry
from fastmask_jax.masks.rle import measure

Kind = Literal["segm", "bbox"]
Engine = Literal["fast", "reference"]
KINDS: tuple[Kind, ...] = ("segm", "bbox")
PROPOSALS = (10, 100, 1000)
AREA_PROPOSALS = 100  # number of proposals in the small, medium and large columns
AREAS = {"all": (0, 1e5**2), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e5**2)}  # pixels²
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListedImage:
    """An image of the annotations with its objects, including crowds."""

    image_id: int
    file_name: str
    size: tuple[int, int]
    objects: list[CocoObject]


class Ranked(NamedTuple):
    """The top m proposals of an image, highest score first.

    Attributes:
      scores: m numbers.
      boxes: float64[m, 4] (x, y, width, height), as given, or else around the masks.
      masks: m validated compressed RLEs; None for a proposal without a mask.
      areas: int64[m], pixels of the masks; 0 without a mask.
      mask_boxes: float32[m, 4] (x, y, width, height), boxes around the masks.
    """

    scores: list[float]
    boxes: Float64[np.ndarray, "m 4"]
    masks: list[dict | None]
    areas: Int64[np.ndarray, "m"]
    mask_boxes: Float32[np.ndarray, "m 4"]


Results = Path | Sequence[dict] | Iterable[dict]  # a file, its entries in memory, or a reiterable source of entries


class _Scattered(Exception):
    """Raised if the entries of an image are not contiguous in the file."""


def average_recall(
    annotations: Path,
    results: Results,
    *,
    image_ids: Iterable[int] | None = None,
    limit: int | None = None,
    max_proposals: Sequence[int] = PROPOSALS,
    engine: Engine = "fast",
) -> dict[str, float]:
    """Computes AR over IoU 0.50:0.05:0.95 of segments and boxes, class-agnostic; crowds are ignored.

    Proposals of unlisted images are counted, reported in a warning and skipped. An entry without a mask counts for
    boxes only; an entry without a box uses the box of its mask.

    Args:
      annotations: COCO instances JSON; invalid objects are reported in a warning and skipped.
      results: COCO results file of any system, its entries, or a `ParquetResults` (see `parquet_folder`): any category;
        RLE, compressed or not, or polygons.
      image_ids: score these images only.
      limit: score the first `limit` images by sorted id.
      max_proposals: numbers of proposals per image, highest scores first, for AR@….
      engine: "fast" is `matching.py`, "reference" COCOeval of pycocotools; both give the same metrics.

    Returns:
      {"segm/AR@10": …, "segm/AR_small@100": …, "bbox/AR@1000": …}; NaN if there are no such objects, and for
      segments if no entry has a mask.

    Raises:
      FileNotFoundError, ValueError: one line that names the file and what is wrong with it.
    """
    images, listed = objects_to_find(annotations, image_ids, limit)
    caps = sorted({*max_proposals, AREA_PROPOSALS})
    found, blind = _recalled(images, listed, results, caps, engine)
    total = _object_counts(image.objects for image in images.values())
    figures: dict[str, float] = {}
    for kind in KINDS:
        to_find = np.where(total > 0, total, np.nan) * (np.nan if blind and kind == "segm" else 1)
        mean = (found[kind] / to_find[:, None]).mean(0)  # [areas, caps]
        for cap in max_proposals:
            figures[f"{kind}/AR@{cap}"] = float(mean[0, caps.index(cap)])
        for place, area in enumerate(AREAS):
            if area != "all":
                figures[f"{kind}/AR_{area}@{AREA_PROPOSALS}"] = float(mean[place, caps.index(AREA_PROPOSALS)])
    return figures


def recall_by_image(
    annotations: Path,
    results: Results,
    *,
    kind: Kind = "segm",
    proposals: int = 100,
    image_ids: Iterable[int] | None = None,
    limit: int | None = None,
    engine: Engine = "fast",
) -> dict[int, float]:
    """Computes the mean recall over IoU 0.50:0.05:0.95 of each image with objects, for its top `proposals`."""
    images, _ = objects_to_find(annotations, image_ids, limit)
    recalls = {n: 0.0 for n, image in images.items() if not all(o.crowd for o in image.objects)}

    def score(groups: Iterator[tuple[int, list[dict]]]) -> None:
        for image_id, ranked in ranked_proposals(groups, images, proposals, _name(results)):
            hits = _FOUND[engine](images[image_id], ranked, kind, [proposals])[:, 0, 0]
            recalls[image_id] = float(hits.mean() / _object_counts([images[image_id].objects])[0])

    over_groups(results, score)
    return recalls


def objects_to_find(
    annotations: Path, image_ids: Iterable[int] | None, limit: int | None
) -> tuple[dict[int, ListedImage], set[int]]:
    """Returns the images to score, sorted by id, at most `limit`; and the ids of all listed images.

    Errors: as of `average_recall`.
    """
    split = read_instances(Path(annotations), None)
    chosen = split.images
    if image_ids is not None:
        wanted = {plain(image_id) for image_id in image_ids}
        unknown = sorted(wanted - {image.image_id for image in chosen})
        if unknown:
            raise InvalidInput(f"{annotations}: no image {unknown[0]} ({len(unknown)} of the image ids are not listed)")
        chosen = [image for image in chosen if image.image_id in wanted]
    images = {}
    check_sizes(chosen[:limit], Path(annotations))
    for image in chosen[:limit]:
        objects, problems = objects_of(image.annotations, image.size, image.file_name)
        split.report.extend(problems)
        # Among equally good objects, COCO's matching takes the last one, in the order of categories.
        category = {entry["id"]: entry["category_id"] for entry in image.annotations}
        objects.sort(key=lambda o: category[o.object_id])
        images[image.image_id] = ListedImage(image.image_id, image.file_name, image.size, objects)
    if split.report:
        log.warning("%s: skipped objects:\n%s", annotations, split.report.summary())
    return images, {image.image_id for image in split.images}


def _object_counts(objects: Iterable[list[CocoObject]]) -> Int64[np.ndarray, "4"]:
    """Counts the objects in each of `AREAS`, without crowds."""
    area = np.array([o.area for each in objects for o in each if not o.crowd])
    return np.array([np.count_nonzero((area >= low) & (area <= high)) for low, high in AREAS.values()], np.int64)


def _is_in_memory(results: Results) -> bool:
    """Returns whether results are entries, rather than a file of them."""
    return isinstance(results, Sequence | Iterator) and not isinstance(results, str)


def _name(results: Results) -> str:
    return "results" if _is_in_memory(results) else str(results)


def over_groups(results: Results, score: Callable[[Iterator[tuple[int, list[dict]]]], None]) -> None:
    """Calls `score` with (image id, entries) of every image.

    The file is streamed if the entries of each image are contiguous. Otherwise `score` is called a second time with all
    images, and must start over.
    """
    entries: Iterable[dict] = results
    if _is_in_memory(results):
        entries = [valid_entry(plain(entry), f"results: entry {number}") for number, entry in enumerate(results)]
    else:
        named = isinstance(results, str | Path)
        try:
            return score(_runs(read_results(results) if named else results))
        except _Scattered:
            log.warning("%s: entries are not sorted by image: the whole file is held in memory", results)
            entries = read_results(results) if named else results
    groups = defaultdict(list)
    for entry in entries:
        groups[entry["image_id"]].append(entry)
    return score(iter(groups.items()))


def _runs(entries: Iterable[dict]) -> Iterator[tuple[int, list[dict]]]:
    seen = set()
    for image_id, run in itertools.groupby(entries, key=lambda entry: entry["image_id"]):
        if image_id in seen:
            raise _Scattered
        seen.add(image_id)
        yield image_id, list(run)


def ranked_proposals(
    groups: Iterator[tuple[int, list[dict]]], images: dict[int, ListedImage], most: int, where: str
) -> Iterator[tuple[int, Ranked]]:
    """Yields the top `most` proposals of each image with objects, validated.

    Args:
      where: name of the results in errors.
    """
    for image_id, entries in groups:
        image = images.get(image_id)
        if image is not None and not all(o.crowd for o in image.objects):
            yield image_id, _ranked(sorted(entries, key=lambda entry: -entry["score"])[:most], image, where)


def _ranked(entries: list[dict], image: ListedImage, where: str) -> Ranked:
    """Validates entries, highest score first. Of equal scores, COCO takes the first: its own sort is stable, too."""
    masks = [_rle(entry, image, where) for entry in entries]
    with_mask = [n for n, mask in enumerate(masks) if mask]
    measures = measure([masks[n]["counts"] for n in with_mask], image.size)
    if not measures.sound.all():
        entry = entries[with_mask[np.argmin(measures.sound)]]
        raise InvalidInput(f"{_named(entry, image, where)}: its run lengths are broken or cut off")
    areas, mask_boxes = np.zeros(len(entries), np.int64), np.zeros((len(entries), 4), np.float32)
    areas[with_mask], mask_boxes[with_mask] = measures.areas, measures.boxes
    boxes = mask_boxes.astype(np.float64)
    given = [n for n, entry in enumerate(entries) if is_given(entry.get("bbox"))]
    boxes[given] = _boxes([entries[n] for n in given], image, where)
    return Ranked([float(entry["score"]) for entry in entries], boxes, masks, areas, mask_boxes)


def _boxes(entries: list[dict], image: ListedImage, where: str) -> Float64[np.ndarray, "m 4"]:
    """Returns the boxes that entries give."""
    for entry in entries:
        box = entry["bbox"]
        if not (isinstance(box, list) and len(box) == 4 and all(map(is_finite, box))):
            raise InvalidInput(
                f"{_named(entry, image, where)}: its bbox {shown(box)} is not four numbers x, y, width, height"
            )
    return np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)


def _named(entry: dict, image: ListedImage, where: str) -> str:
    return f"{where}: the proposal of image {image.image_id} with score {entry['score']}"


def _rle(entry: dict, image: ListedImage, where: str) -> dict[str, Any] | None:
    """Returns the mask of an entry as compressed RLE of the image's size; None if it has none."""
    mask = entry.get("segmentation")
    counts = mask.get("counts") if isinstance(mask, dict) else None
    if not isinstance(counts, str | bytes):
        return _compressed(entry, image, where) if is_given(mask) else None
    size = mask.get("size")
    if not isinstance(size, list) or size != list(image.size):
        raise InvalidInput(
            f"{_named(entry, image, where)}: its mask is not of the image's [height, width] {image.size}"
        )
    return {"size": size, "counts": counts if isinstance(counts, bytes) else counts.encode(errors="replace")}


def _compressed(entry: dict, image: ListedImage, where: str) -> dict[str, Any]:
    """Compresses a mask given as polygons or as uncompressed RLE."""
    objects, problems = objects_of([{"id": 1, "segmentation": entry["segmentation"]}], image.size, "")
    if objects:
        counts = objects[0].counts
    elif {problem for problem, _ in problems} <= {Problem.EMPTY_MASK, Problem.OUTSIDE}:
        counts = coco_mask.frPyObjects({"size": list(image.size), "counts": [math.prod(image.size)]}, *image.size)[
            "counts"
        ]
    else:
        raise InvalidInput(f"{_named(entry, image, where)}: {problems[0][0]}")
    return {"size": list(image.size), "counts": counts}


def _recalled(
    images: dict[int, ListedImage], listed: set[int], results: Results, caps: list[int], engine: Engine
) -> tuple[dict[Kind, Float64[np.ndarray, "10 4 caps"]], bool]:
    """Counts found objects by IoU threshold, area and number of proposals; also returns whether all are boxes only."""
    found: dict[Kind, np.ndarray] = {}
    masks = boxes_alone = 0

    def score(groups: Iterator[tuple[int, list[dict]]]) -> None:
        nonlocal masks, boxes_alone
        found.update({kind: np.zeros((len(IOU_THRESHOLDS), len(AREAS), len(caps))) for kind in KINDS})
        masks, boxes_alone, unknown, read = 0, 0, Counter(), set()

        def noted() -> Iterator[tuple[int, list[dict]]]:
            nonlocal masks, boxes_alone
            for image_id, entries in groups:
                read.add(image_id)
                if image_id not in listed:
                    unknown[image_id] += len(entries)
                with_mask = sum(is_given(entry.get("segmentation")) for entry in entries)
                masks, boxes_alone = masks + with_mask, boxes_alone + len(entries) - with_mask
                yield image_id, entries

        for image_id, ranked in ranked_proposals(noted(), images, caps[-1], _name(results)):
            for kind in KINDS:
                found[kind] += _FOUND[engine](images[image_id], ranked, kind, caps)
        _warn(unknown, len(images.keys() - read), len(images))

    over_groups(results, score)
    return found, boxes_alone > 0 and masks == 0


def _warn(unknown: Counter, silent: int, images: int) -> None:
    if unknown:
        named = ", ".join(str(n) for n in sorted(unknown)[:5])
        log.warning(
            "%d proposals are of %d images that the annotations do not list (%s%s): skipped",
            unknown.total(),
            len(unknown),
            named,
            ", …" if len(unknown) > 5 else "",
        )
    if silent:
        log.warning("%d of %d images have no proposals", silent, images)


Found = Int64[np.ndarray, "10 4 caps"]  # objects that are found, by IoU threshold, range of areas, and proposals


def _found_by_matching(image: ListedImage, ranked: Ranked, kind: Kind, caps: list[int]) -> Found:
    wanted = [o for o in image.objects if not o.crowd]
    least = float(IOU_THRESHOLDS[0])
    if kind == "segm":
        some = np.array([mask is not None for mask in ranked.masks], bool)
        x, y, width, height = ranked.mask_boxes[some].T
        masks = [mask for mask in ranked.masks if mask]
        targets = [{"size": list(image.size), "counts": o.counts} for o in wanted]
        pairs = mask_pairs(masks, ranked.areas[some], np.stack([x, y, x + width, y + height]), targets, least)
    else:
        pairs = box_pairs(ranked.boxes, np.array([o.box for o in wanted], np.float64).reshape(-1, 4), least)
    area = np.array([o.area for o in wanted])
    ranges = np.array([(area >= low) & (area <= high) for low, high in AREAS.values()])
    return found_objects(pairs, ranges, IOU_THRESHOLDS, caps)


def _found_by_cocoeval(image: ListedImage, ranked: Ranked, kind: Kind, caps: list[int]) -> Found:
    objects = [
        {
            "area": o.area,
            "bbox": list(o.box),
            "iscrowd": int(o.crowd),
            "segmentation": {"size": list(image.size), "counts": o.counts},
        }
        for o in image.objects
    ]
    proposals = [
        {"score": score, "bbox": box, "segmentation": mask}
        for score, box, mask in zip(ranked.scores, ranked.boxes.tolist(), ranked.masks, strict=True)
        if kind == "bbox" or mask is not None
    ]
    recall = recall_of_cocoeval(image.size, objects, proposals, kind, IOU_THRESHOLDS, list(AREAS.values()), caps)
    return np.rint(np.maximum(recall, 0) * _object_counts([image.objects])[:, None]).astype(np.int64)


_FOUND: dict[str, Callable[[ListedImage, Ranked, Kind, list[int]], Found]] = {
    "fast": _found_by_matching,
    "reference": _found_by_cocoeval,
}
