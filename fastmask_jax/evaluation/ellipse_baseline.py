"""Image-independent baseline: a centered ellipse in every window, large windows first.

python -m fastmask_jax.evaluation.ellipse_baseline --annotations instances_val2014.json --out floor.json
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32
from ml_collections import ConfigDict

from fastmask_jax.configuration import load_config, run_command
from fastmask_jax.data.coco.instances import read_instances
from fastmask_jax.errors import InvalidInput
from fastmask_jax.evaluation.average_recall import average_recall
from fastmask_jax.evaluation.recall_table import PUBLISHED_FASTMASK, Row, text_table
from fastmask_jax.geometry import MASK, all_windows, resized_size
from fastmask_jax.masks.coco_results import ResultsWriter
from fastmask_jax.masks.rle import ScoredMasks, masks_to_results

ELLIPSE = 0.55  # diameter as a fraction of the window's side: the middle of the fitting sizes (docs/network.md §2)
STEEPNESS = 20.0  # slope of the logits per radius: sharp, but smooth enough within a cell for resizing


def ellipse_logits(threshold: float) -> Float32[np.ndarray, "40 40"]:
    """Returns mask logits of a centered ellipse whose rim has the logit of `threshold`."""
    across = (np.arange(MASK) + 0.5) / MASK * 2 - 1
    radius = np.hypot(across[:, None], across) / ELLIPSE
    return (np.log(threshold / (1 - threshold)) + STEEPNESS * (1 - radius)).astype(np.float32)


def ranked_windows(resized: tuple[int, int], strides: Sequence[int], most: int) -> Int32[np.ndarray, "K 3"]:
    """Returns the first `most` windows of a resized image: large ones first, then those near its center."""
    windows = all_windows(*resized, strides)
    stride = np.asarray(strides)[windows[:, 0]]
    distance = (2 * windows[:, 1] * stride - resized[0]) ** 2 + (2 * windows[:, 2] * stride - resized[1]) ** 2
    return windows[np.lexsort((distance, -stride))[:most]]


def ellipse_proposals(
    original: tuple[int, int],
    *,
    strides: Sequence[int],
    long_edge: int,
    threshold: float,
    max_proposals: int,
) -> ScoredMasks:
    """Returns proposals for an image from its (height, width) alone; scores decrease from 1 with the rank."""
    resized = resized_size(*original, long_edge)
    windows = ranked_windows(resized, strides, max_proposals)
    scores = (1 - np.arange(len(windows)) / max(len(windows), 1)).astype(np.float32)
    logits = np.broadcast_to(ellipse_logits(threshold), (len(windows), MASK, MASK))
    sizes = {"strides": strides, "resized": resized, "original": original}
    return masks_to_results(scores, windows, logits, **sizes, threshold=threshold)


def write_ellipse_baseline(
    annotations: Path, out: Path, config: ConfigDict, *, max_proposals: int, limit: int | None = None
) -> int:
    """Writes the baseline's proposals for (the first `limit` by id of) a COCO file's images; returns their number.

    Windows, scale and mask threshold are those of a network's config.
    """
    view = {
        "strides": config.model.strides,
        "long_edge": max(config.evaluation.long_edges),
        "threshold": config.evaluation.mask_threshold,
    }
    with ResultsWriter(out) as writer:
        for image in read_instances(annotations, None).images[:limit]:
            if image.size is None:
                raise InvalidInput(f"{annotations}: image {image.image_id} has no height and width")
            writer.write(image.image_id, ellipse_proposals(image.size, **view, max_proposals=max_proposals))
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
    parser.add_argument("--config", default="coco", help="config that defines the windows (default: coco, the paper's)")
    return run_command(partial(_run, parser.parse_args(arguments)))


def _run(options: argparse.Namespace) -> int:
    config = load_config(options.config)
    most = options.max_proposals
    entries = write_ellipse_baseline(options.annotations, options.out, config, max_proposals=most, limit=options.limit)
    figures = average_recall(options.annotations, options.out, limit=options.limit)
    print(f"{entries} proposals in {options.out}")
    print(text_table([Row("ellipses, nothing learned", figures), PUBLISHED_FASTMASK]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
