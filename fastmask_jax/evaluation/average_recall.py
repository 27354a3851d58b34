"""Computes average recall of class-agnostic proposals by COCO's protocol (docs/network.md §3), for any results file.

Recall is the number of found objects divided by the number of objects. Images are scored in chunks and the counts are
added, so the proposals of 5000 images need not fit into memory. A COCO engine does the matching.
"""

import contextlib
import io
import itertools
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import faster_coco_eval.core
import numpy as np
import pycocotools.coco
import pycocotools.cocoeval
from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from jaxtyping import Float64, Int64
from pycocotools import mask as coco_mask

from fastmask_jax.data.coco.instances import check_sizes, read_instances
from fastmask_jax.data.coco.objects import CocoObject, objects_of
from fastmask_jax.data.coco.problem_report import Problem
from fastmask_jax.errors import InvalidInput, shown
from fastmask_jax.foreign_json import plain
from fastmask_jax.masks.coco_results import CATEGORY, is_finite, is_given, read_results, valid_entry
from fastmask_jax.masks.rle import covered_pixels

Kind = Literal["segm", "bbox"]
Engine = Literal["fast", "reference"]
KINDS: tuple[Kind, ...] = ("segm", "bbox")
PROPOSALS = (10, 100, 1000)
AREA_PROPOSALS = 100  # number of proposals in the small, medium and large columns
AREAS = {"all": (0, 1e5**2), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e5**2)}  # pixels²
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
CHUNK = 32  # images scored in one call of an engine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListedImage:
    """An image of the annotations with its objects, including crowds."""

    image_id: int
    file_name: str
    size: tuple[int, int]
    objects: list[CocoObject]


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
      engine: "fast" is faster-coco-eval, "reference" pycocotools; both give the same metrics.

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
        for image_id, entries in best_entries(groups, images, proposals, _name(results)):
            hits = _found([(images[image_id], entries)], kind, [proposals], engine)[:, 0, 0]
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


def best_entries(
    groups: Iterator[tuple[int, list[dict]]], images: dict[int, ListedImage], most: int, where: str
) -> Iterator[tuple[int, list[dict]]]:
    """Yields the top `most` entries of each image with objects, highest score first, in the form that engines need.

    Each entry has a score, a bbox, and a validated compressed RLE, or None, as its segmentation.

    Args:
      where: name of the results in errors.
    """
    for image_id, entries in groups:
        image = images.get(image_id)
        if image is None or all(o.crowd for o in image.objects):
            continue
        best = sorted(entries, key=lambda entry: -entry["score"])[:most]  # stable, as COCO's own sort
        yield (
            image_id,
            [
                {"score": float(entry["score"]), "bbox": _box(entry, rle, image, where), "segmentation": rle}
                for entry, rle in zip(best, _rles(best, image, where), strict=True)
            ],
        )


def _box(entry: dict, rle: dict | None, image: ListedImage, where: str) -> list[float]:
    box = entry.get("bbox")
    if not is_given(box):
        return coco_mask.toBbox(rle).tolist()
    if isinstance(box, list) and len(box) == 4 and all(is_finite(v) for v in box):
        return [float(v) for v in box]
    raise InvalidInput(f"{_named(entry, image, where)}: its bbox {shown(box)} is not four numbers x, y, width, height")


def _named(entry: dict, image: ListedImage, where: str) -> str:
    return f"{where}: the proposal of image {image.image_id} with score {entry['score']}"


def _rles(entries: list[dict], image: ListedImage, where: str) -> list[dict | None]:
    """Returns the masks of an image's results as compressed RLE; None for an entry without a mask."""
    rles: list[dict | None] = []
    for entry in entries:
        mask = entry.get("segmentation")
        counts = mask.get("counts") if isinstance(mask, dict) else None
        if isinstance(counts, str | bytes):
            size = mask.get("size")
            if not isinstance(size, list) or size != list(image.size):
                raise InvalidInput(
                    f"{_named(entry, image, where)}: its mask is not of the image's [height, width] {image.size}"
                )
            counts = counts if isinstance(counts, bytes) else counts.encode(errors="replace")
            rles.append({"size": list(image.size), "counts": counts})
        else:
            rles.append(_compressed(entry, image, where) if is_given(mask) else None)
    given = [(entry, rle["counts"]) for entry, rle in zip(entries, rles, strict=True) if rle]
    broken = np.flatnonzero(covered_pixels([counts for _, counts in given]) != image.size[0] * image.size[1])
    if len(broken):
        raise InvalidInput(f"{_named(given[broken[0]][0], image, where)}: its run lengths are broken or cut off")
    return rles


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

        wanted = best_entries(noted(), images, caps[-1], _name(results))
        while chunk := [(images[image_id], entries) for image_id, entries in itertools.islice(wanted, CHUNK)]:
            for kind in KINDS:
                found[kind] += _found(chunk, kind, caps, engine)
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


def _found(
    chunk: list[tuple[ListedImage, list[dict]]], kind: Kind, caps: list[int], engine: Engine
) -> Float64[np.ndarray, "10 4 caps"]:
    """Counts found objects of a chunk of images, by IoU threshold, area and number of proposals."""
    make_coco, make_eval = _ENGINES[engine]
    truth, proposed = [], []
    for image, entries in chunk:
        for o in image.objects:
            rle = {"size": list(image.size), "counts": o.counts}
            truth.append(
                {
                    "image_id": image.image_id,
                    "area": o.area,
                    "bbox": list(o.box),
                    "iscrowd": int(o.crowd),
                    "segmentation": rle,
                }
            )
        for entry in entries:
            if kind == "bbox" or entry["segmentation"] is not None:
                proposed.append({"image_id": image.image_id, "area": 0.0, "iscrowd": 0, **entry})
    sizes = [{"id": image.image_id, "height": image.size[0], "width": image.size[1]} for image, _ in chunk]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = make_eval(_coco(make_coco, sizes, truth), _coco(make_coco, sizes, proposed), kind)
        evaluation.params.useCats = 0
        evaluation.params.iouThrs = IOU_THRESHOLDS
        evaluation.params.maxDets = caps
        evaluation.params.areaRng = [list(span) for span in AREAS.values()]
        evaluation.params.areaRngLbl = list(AREAS)
        evaluation.evaluate()
        evaluation.accumulate()
    recall = np.asarray(evaluation.eval["recall"])[:, 0]  # [thresholds, areas, caps]; −1 without objects
    counts = _object_counts(image.objects for image, _ in chunk)
    return np.rint(np.where(recall < 0, 0, recall) * counts[:, None])


def _coco(make_coco: Any, images: list[dict], annotations: list[dict]) -> Any:
    """Creates a dataset of the engine. Ids start at 1, because COCO's matching uses 0 for "not matched"."""
    coco = make_coco()
    numbered = [{"id": n, "category_id": CATEGORY, **entry} for n, entry in enumerate(annotations, 1)]
    coco.dataset = {"images": images, "annotations": numbered, "categories": [{"id": CATEGORY, "name": "object"}]}
    coco.createIndex()
    return coco


_ENGINES: dict[str, tuple[Any, Any]] = {
    "fast": (faster_coco_eval.core.COCO, COCOeval_faster),
    "reference": (pycocotools.coco.COCO, pycocotools.cocoeval.COCOeval),
}
