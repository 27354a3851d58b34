"""Image-independent baseline: a centered ellipse in every window, large windows first.

python -m fastmask_jax.evaluation.ellipse_baseline --annotations instances_val2014.json --out floor.json
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32

from fastmask_jax.data.coco.instances import read_instances
from fastmask_jax.errors import InvalidInput
from fastmask_jax.evaluation.average_recall import average_recall
from fastmask_jax.evaluation.table import PUBLISHED_FASTMASK, Row, text_table
from fastmask_jax.geometry import MASK, all_windows, resized_size
from fastmask_jax.masks.coco_results import ResultsWriter
from fastmask_jax.masks.paste import THRESHOLD
from fastmask_jax.masks.rle import ScoredMasks, masks_to_results

STRIDES = (16, 24, 32, 48, 64, 96, 128)
LONG_EDGE = 870
ELLIPSE = 0.55  # its diameter in sides of the window: the middle of the sizes that fit a window (docs/network.md §2)
STEEPNESS = 20.0  # of the logit, per radius: sharp, yet straight enough across a cell to be resized well


def ellipse_logits() -> Float32[np.ndarray, "40 40"]:
    """Returns mask logits of a centered ellipse whose rim has the logit of the threshold."""
    across = (np.arange(MASK) + 0.5) / MASK * 2 - 1
    radius = np.hypot(across[:, None], across) / ELLIPSE
    return (np.log(THRESHOLD / (1 - THRESHOLD)) + STEEPNESS * (1 - radius)).astype(np.float32)


def ranked_windows(resized: tuple[int, int], strides: Sequence[int], most: int) -> Int32[np.ndarray, "K 3"]:
    """Returns the first `most` windows of a resized image: large ones first, then those near its center."""
    windows = all_windows(*resized, strides)
    stride = np.asarray(strides)[windows[:, 0]]
    distance = (2 * windows[:, 1] * stride - resized[0]) ** 2 + (2 * windows[:, 2] * stride - resized[1]) ** 2
    return windows[np.lexsort((distance, -stride))[:most]]


def ellipse_proposals(
    original: tuple[int, int],
    *,
    strides: Sequence[int] = STRIDES,
    long_edge: int = LONG_EDGE,
    max_proposals: int = 1000,
) -> ScoredMasks:
    """Returns proposals for an image of which only (height, width) is known; scores decrease from 1 with the rank."""
    resized = resized_size(*original, long_edge)
    windows = ranked_windows(resized, strides, max_proposals)
    scores = (1 - np.arange(len(windows)) / max(len(windows), 1)).astype(np.float32)
    logits = np.broadcast_to(ellipse_logits(), (len(windows), MASK, MASK))
    return masks_to_results(scores, windows, logits, strides=strides, resized=resized, original=original)


def write_ellipse_baseline(annotations: Path, out: Path, *, max_proposals: int = 1000, limit: int | None = None) -> int:
    """Writes the baseline's proposals for (the first `limit` by id of) a COCO file's images; returns their number."""
    with ResultsWriter(out) as writer:
        for image in read_instances(annotations, None).images[:limit]:
            if image.size is None:
                raise InvalidInput(f"{annotations}: image {image.image_id} has no height and width")
            writer.write(image.image_id, ellipse_proposals(image.size, max_proposals=max_proposals))
    return writer.entries


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m fastmask_jax.evaluation.ellipse_baseline", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--annotations", type=Path, required=True, help="COCO instances JSON")
    parser.add_argument("--out", type=Path, required=True, help="results file to write")
    parser.add_argument("--max_proposals", type=int, default=1000, help="proposals per image (default: 1000)")
    parser.add_argument("--limit", type=int, help="evaluate only the first LIMIT images by sorted id")
    options = parser.parse_args(arguments)
    try:
        entries = write_ellipse_baseline(
            options.annotations, options.out, max_proposals=options.max_proposals, limit=options.limit
        )
        figures = average_recall(options.annotations, options.out, limit=options.limit)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{entries} proposals in {options.out}")
    print(text_table([Row("ellipses, nothing learned", figures), PUBLISHED_FASTMASK]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
