"""Finds where the columns of an image cross the threshold of masks. Compiled, on the CPU, many masks at once.

Between two fine cells, the probability along a column of pixels is linear, so a mask's outline follows from the fine
cells alone. This file looks at every fine cell of every column; `paste` turns the few crossings into runs of pixels.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int, Int64

from fastmask_jax.geometry import FINE_MASK, upscale_matrix

MASKS = 64  # masks upsampled at once
COLUMNS = 4096  # columns of pixels searched at once


class Crossings(NamedTuple):
    """Crossings of the threshold, column after column, downwards in each.

    Attributes:
      column: index of the column.
      row: it lies between the fine rows `row` − 1 and `row`, 0 to 160; beyond the fine cells the probability is 0.
      before: share of the way between their centers that is left below the crossing, 0 to 1.
    """

    column: Int64[np.ndarray, "N"]
    row: Int64[np.ndarray, "N"]
    before: Float32[np.ndarray, "N"]


def find_crossings(
    logits: Float32[np.ndarray, "K 40 40"],
    counts: Int64[np.ndarray, "K"],
    x: Float32[np.ndarray, "P"],
    threshold: float,
) -> Crossings:
    """Finds the crossings of every column of every mask.

    Args:
      logits: mask logits.
      counts: number of columns of pixels of each mask; their sum is P.
      x: position of each column in fine columns, 0 to 159, mask after mask.
      threshold: probability.
    """
    cell = np.clip(x.astype(np.int32), 0, FINE_MASK - 2)
    weight = (x - cell).astype(np.float32)
    cell += FINE_MASK * np.repeat(np.arange(len(counts), dtype=np.int32) % MASKS, counts)
    starts = np.concatenate([[0], np.cumsum(counts)])
    found, running = [], deque[Any]()
    with jax.default_device(_cpu()):
        for first in range(0, len(logits), MASKS):
            part = _padded(logits[first : first + MASKS], MASKS)
            begin, end = starts[[first, min(first + MASKS, len(logits))]].tolist()
            running.append((_search(part, cell[begin:end], weight[begin:end], np.float32(threshold)), begin, end))
            if len(running) > 1:  # the next masks are searched while these are read
                found += _read(*running.popleft(), cell, weight, threshold)
        if running:
            found += _read(*running.popleft(), cell, weight, threshold)
    if not found:
        return Crossings(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    return Crossings(*(np.concatenate(each) for each in zip(*found, strict=True)))


def _search(
    logits: np.ndarray, cell: np.ndarray, weight: np.ndarray, threshold: np.float32
) -> tuple[jax.Array, list[jax.Array]]:
    """Starts a search; returns the fine cells of the masks and, for each part of the columns, where they cross."""
    fine = _fine_columns(logits)
    parts = range(0, len(cell), COLUMNS)
    padded = ([_padded(each[n : n + COLUMNS], COLUMNS) for each in (cell, weight)] for n in parts)
    return fine, [_changes(fine, *each, threshold) for each in padded]


def _read(
    search: tuple[jax.Array, Sequence[jax.Array]],
    begin: int,
    end: int,
    cell: np.ndarray,
    weight: np.ndarray,
    threshold: float,
) -> Iterator[Crossings]:
    fine = np.asarray(search[0])
    for number, changes in enumerate(search[1]):
        first = begin + number * COLUMNS
        column, row = np.divmod(np.flatnonzero(np.asarray(changes)), FINE_MASK + 1)
        column += first
        real = np.searchsorted(column, end)  # padding follows
        column, row = column[:real], row[:real]
        upper, lower = np.maximum(row - 1, 0), np.minimum(row, FINE_MASK - 1)
        left, share = cell[column], weight[column]
        above, below = ((1 - share) * fine[left, y] + share * fine[left + 1, y] for y in (upper, lower))
        with np.errstate(divide="ignore", invalid="ignore"):
            before = np.nan_to_num((below - np.float32(threshold)) / (below - above))
        yield Crossings(column, row, np.clip(before, 0, 1))


@jax.jit
def _fine_columns(logits: Float[Array, "k 40 40"]) -> Float[Array, "n 160"]:
    """Upsamples the logits of masks; returns probabilities of fine columns, mask after mask."""
    matrix = upscale_matrix()
    product = {"precision": lax.Precision.HIGHEST}
    columns = jnp.einsum("ac,krc->kar", matrix, logits, **product)
    return jax.nn.sigmoid(jnp.einsum("kar,br->kab", columns, matrix, **product)).reshape(-1, FINE_MASK)


@jax.jit
def _changes(
    fine: Float[Array, "n 160"], cell: Int[Array, "p"], weight: Float[Array, "p"], threshold: Float[Array, ""]
) -> Bool[Array, "p 161"]:
    """Returns between which fine rows each column of pixels crosses the threshold."""
    left, right = fine[cell], fine[cell + 1]
    inside = (1 - weight)[:, None] * left + weight[:, None] * right >= threshold
    return jnp.concatenate([inside[:, :1], inside[:, 1:] != inside[:, :-1], inside[:, -1:]], axis=1)


def _padded(array: np.ndarray, length: int) -> np.ndarray:
    return np.pad(array, [(0, length - len(array)), *[(0, 0)] * (array.ndim - 1)])


@cache
def _cpu() -> jax.Device:
    """Returns the CPU, or the default device of a process that has no CPU backend."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]
