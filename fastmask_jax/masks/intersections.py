"""Intersections of masks, of many pairs at once, from their runs of pixels."""

import numpy as np
from jaxtyping import Int, Int64

from fastmask_jax.masks.paste import Runs

_EDGES = 1 << 15  # edges that are looked up at once, so that they stay in the cache


def shared_pixels(runs: Runs, first: Int[np.ndarray, "p"], second: Int[np.ndarray, "p"]) -> Int64[np.ndarray, "p"]:
    """Counts the pixels that pairs of masks, given by their numbers, have in common."""
    if not len(first):
        return np.zeros(0, np.int64)
    ends = np.cumsum(np.diff(runs.splits)[first])
    cuts = np.searchsorted(ends, np.arange(_EDGES, ends[-1] + _EDGES, _EDGES))
    parts = zip(np.split(first, cuts), np.split(second, cuts), strict=True)
    return np.concatenate([_shared(runs, *part) for part in parts])


def _shared(runs: Runs, first: Int[np.ndarray, "p"], second: Int[np.ndarray, "p"]) -> Int64[np.ndarray, "p"]:
    """Looks up how many pixels of the second mask lie before each edge of the first."""
    pixels = runs.size[0] * runs.size[1]
    needed, layer = np.unique(second, return_inverse=True)
    place, length = _edges_of(runs, needed)
    edges = runs.edges[place] + np.repeat(np.arange(len(needed)) * pixels, length)  # of the needed masks in a row
    covered = np.zeros(len(edges) + 1, np.int64)  # pixels of these masks before each edge, less the start of its run
    covered[2::2] = np.cumsum(edges[1::2] - edges[0::2])
    covered[1::2] = covered[0:-1:2] - edges[0::2]
    place, length = _edges_of(runs, first)
    asked = runs.edges[place] + np.repeat(layer * pixels, length)
    number = np.searchsorted(edges, asked, side="right")
    before = covered[number] + asked * (number % 2)
    sums = np.concatenate([[0], np.cumsum(before[1::2] - before[0::2])])
    return np.diff(sums[np.concatenate([[0], np.cumsum(length)]) // 2])


def _edges_of(runs: Runs, masks: Int[np.ndarray, "k"]) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "k"]]:
    """Returns the places of the edges of some masks, mask after mask, and how many each has."""
    length = np.diff(runs.splits)[masks]
    ends = np.cumsum(length)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(runs.splits[masks] - (ends - length), length), length
