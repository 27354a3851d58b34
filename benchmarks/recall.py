"""Times average recall and COCOeval of pycocotools for 1000 proposals per image, reading excluded.

    python benchmarks/recall.py --annotations instances_val.json --images 20

Proposals: smooth ellipses that are the same for every image; the same windows with ragged masks, as of a network that
has learned little; with `--results`, those of a COCO results file, such as one of evaluate.py. Each way gets decoded
annotations or their file, and the decoded entries of the results, in memory; it scores segments and boxes. Medians of
alternating runs in one process. `--whole N` also scores N images, the annotated ones repeated, from a stream, and
prints how much memory that takes.
"""

import argparse
import contextlib
import copy
import io
import itertools
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fastmask_jax.configuration import load_config
from fastmask_jax.data.coco.instances import read_instances
from fastmask_jax.evaluation.average_recall import PROPOSALS, average_recall
from fastmask_jax.evaluation.ellipse_baseline import ellipse_logits, ellipse_proposals
from fastmask_jax.geometry import MASK, all_windows, resized_size
from fastmask_jax.masks.coco_results import read_results, result_entries
from fastmask_jax.masks.rle import ScoredMasks, masks_to_results

CONFIG = load_config("coco")
LONG_EDGE, THRESHOLD = max(CONFIG.evaluation.long_edges), CONFIG.evaluation.mask_threshold
COUNT = max(PROPOSALS)
ROUGHNESS = 60.0  # of ragged masks, as in benchmarks/suppression.py


def smooth(size: tuple[int, int]) -> ScoredMasks:
    """Returns a centered ellipse in each window."""
    view = {"strides": CONFIG.model.strides, "long_edge": LONG_EDGE, "threshold": THRESHOLD}
    return ellipse_proposals(size, **view, max_proposals=COUNT)


def ragged(size: tuple[int, int]) -> ScoredMasks:
    """Returns masks with holes and blobs in random windows."""
    rng = np.random.default_rng(0)
    resized = resized_size(*size, LONG_EDGE)
    windows = rng.permutation(all_windows(*resized, CONFIG.model.strides))[:COUNT]
    noise = rng.normal(size=(len(windows), MASK, MASK)).astype(np.float32)
    logits = ellipse_logits(THRESHOLD) + ROUGHNESS * np.stack([cv2.GaussianBlur(one, (0, 0), 4) for one in noise])
    sizes = {"strides": CONFIG.model.strides, "resized": resized, "original": size}
    return masks_to_results(np.linspace(1, 0.1, len(windows)), windows, logits, **sizes, threshold=THRESHOLD)


def cocoeval(content: dict, entries: list[dict], image_ids: list[int]) -> dict[str, float]:
    """Scores entries by COCOeval alone."""
    figures = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        results = truth.loadRes(entries)
        for kind in ("segm", "bbox"):
            evaluation = COCOeval(truth, results, kind)
            evaluation.params.useCats = 0
            evaluation.params.imgIds = image_ids
            evaluation.params.maxDets = list(PROPOSALS)
            evaluation.evaluate()
            evaluation.accumulate()
            recall = evaluation.eval["recall"][:, 0]  # [thresholds, areas, caps]
            figures |= {f"{kind}/AR@{cap}": recall[:, 0, k].mean() for k, cap in enumerate(PROPOSALS)}
            for place, name in enumerate(("small", "medium", "large"), 1):
                figures[f"{kind}/AR_{name}@100"] = recall[:, place, PROPOSALS.index(100)].mean()
    return figures


def compare(name: str, annotations: Path, entries: list[dict], image_ids: list[int], rounds: int) -> None:
    """Prints the median seconds of both ways, and the largest difference of a figure."""
    seconds: dict[str, list[float]] = {"here": [], "pycocotools": []}
    for _ in range(rounds):
        copies = [dict(entry) for entry in entries], json.loads(annotations.read_text())  # loadRes changes entries
        start = time.perf_counter()
        here = average_recall(annotations, entries, image_ids=image_ids)
        seconds["here"].append(time.perf_counter() - start)
        start = time.perf_counter()
        there = cocoeval(copies[1], copies[0], image_ids)
        seconds["pycocotools"].append(time.perf_counter() - start)
    ours, theirs = (1e3 * statistics.median(times) / len(image_ids) for times in seconds.values())
    characters = statistics.mean(len(entry["segmentation"]["counts"]) for entry in entries)
    apart = max(abs(here[key] - value) for key, value in there.items() if value >= 0)
    print(
        f"{name:<10} {characters:4.0f} characters a mask: {ours:.1f} ms an image here, {theirs:.1f} by pycocotools, "
        f"{theirs / ours:.1f} times as fast; figures differ by at most {apart:.0e}"
    )


class Repeated:
    """Entries of the same images under new ids, again and again: a reiterable stream."""

    def __init__(self, entries: dict[int, list[dict]], images: list[dict]) -> None:
        self._entries, self._images = entries, images

    def __iter__(self) -> Iterator[dict]:
        for image in self._images:
            yield from ({**entry, "image_id": image["id"]} for entry in self._entries[image["source"]])


def score_whole(annotations: Path, entries: list[dict], image_ids: list[int], count: int) -> None:
    """Prints time and memory of scoring `count` images."""
    by_image = {n: list(group) for n, group in itertools.groupby(entries, key=lambda entry: entry["image_id"])}
    content = json.loads(annotations.read_text())
    listed = {image["id"]: image for image in content["images"]}
    images = [
        {**listed[source], "id": n, "file_name": f"{n}.jpg", "source": source}
        for n, source in enumerate(itertools.islice(itertools.cycle(image_ids), count), 1)
    ]
    objects = {n: [one for one in content["annotations"] if one["image_id"] == n] for n in image_ids}
    content["annotations"] = [{**one, "image_id": image["id"]} for image in images for one in objects[image["source"]]]
    content["annotations"] = [{**one, "id": n} for n, one in enumerate(content["annotations"], 1)]
    content["images"] = images
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truth.json"
        path.write_text(json.dumps(content))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        average_recall(path, Repeated(by_image, images))
        seconds = time.perf_counter() - start
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{count} images: {seconds:.1f} s, {more / 1024:.0f} MiB more than before, annotations included")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--results", type=Path, help="COCO results file of a network")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--whole", type=int, default=0, help="score so many images from a stream, too")
    options = parser.parse_args()
    images = [image for image in read_instances(options.annotations, None).images if image.annotations]
    images = images[: options.images]
    ids = [image.image_id for image in images]
    sets = {
        make.__name__: [entry for image in images for entry in result_entries(image.image_id, make(image.size))]
        for make in (smooth, ragged)
    }
    if options.results:
        sets["network"] = [entry for entry in read_results(options.results) if entry["image_id"] in set(ids)]
    if options.whole:
        score_whole(options.annotations, sets[list(sets)[-1]], ids, options.whole)
    for name, entries in sets.items():
        compare(name, options.annotations, copy.deepcopy(entries), ids, options.rounds)


if __name__ == "__main__":
    main()
