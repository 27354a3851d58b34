"""Finds where the columns of an image cross the threshold of masks. Compiled, on the CPU, many masks at once.

Between two fine cells, the probability along a column of pixels is linear, so a mask's outline follows from the fine
cells alone. This file looks at every fine cell of every column; `paste` turns the few crossings into runs of pixels.
"""

from collections import deque
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, Int64

from fastmask_jax.geometry import FINE_MASK, upscale_matrix

MASKS = 64  # masks upsampled at once
COLUMNS = 4096  # columns of pixels searched at once
AHEAD = 4  # parts of COLUMNS columns whose search has been started


class Crossings(NamedTuple):
    """Crossings of the threshold, column after column, downwards in each.

    Attributes:
      column: index of the column.
      row: it lies between the fine rows `row` − 1 and `row`, 0 to 160; beyond the fine cells the probability is 0.
      rest: distance from the crossing down to the center of `row`, in fine rows, 0 to 1.
    """

    column: Int64[np.ndarray, "N"]
    row: Int64[np.ndarray, "N"]
    rest: Float32[np.ndarray, "N"]


class _Part(NamedTuple):
    """Columns that are being searched, of at most MASKS masks."""

    fine: jax.Array  # [n, 160] fine columns of the masks
    changes: jax.Array  # [COLUMNS, 161] where each column crosses the threshold; padded
    cell: Int32[np.ndarray, "p"]  # the fine column to the left of each column
    weight: Float32[np.ndarray, "p"]  # of the fine column to its right
    first: int  # index of the first column


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
    found = [Crossings(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
    running = deque[_Part]()
    with jax.default_device(_cpu()):
        for part in _search(logits, counts, x, threshold):
            running.append(part)
            if len(running) > AHEAD:  # the next parts are searched while this one is read
                found.append(_read(running.popleft(), threshold))
        found += [_read(part, threshold) for part in running]
    return Crossings(*(np.concatenate(each) for each in zip(*found, strict=True)))


def _search(logits: np.ndarray, counts: np.ndarray, x: np.ndarray, threshold: float) -> Iterator[_Part]:
    """Yields parts of the columns whose search has been started."""
    starts = np.concatenate([[0], np.cumsum(counts)]).tolist()
    for first_mask in range(0, len(logits), MASKS):
        last_mask = min(first_mask + MASKS, len(logits))
        fine = _fine_columns(_padded(logits[first_mask:last_mask], MASKS))
        owner = np.repeat(np.arange(last_mask - first_mask, dtype=np.int32), counts[first_mask:last_mask])
        begin, end = starts[first_mask], starts[last_mask]
        for first in range(begin, end, COLUMNS):
            at = x[first : min(first + COLUMNS, end)]
            cell = np.clip(at.astype(np.int32), 0, FINE_MASK - 2)
            weight = (at - cell).astype(np.float32)
            cell += FINE_MASK * owner[first - begin :][: len(at)]
            changes = _changes(fine, _padded(cell, COLUMNS), _padded(weight, COLUMNS), np.float32(threshold))
            yield _Part(fine, changes, cell, weight, first)


def _read(part: _Part, threshold: float) -> Crossings:
    """Returns the crossings of a part, whose search it waits for."""
    changes = np.asarray(part.changes)[: len(part.cell)]  # without the padding
    column, row = np.divmod(np.flatnonzero(changes), FINE_MASK + 1)
    fine, cell, weight = np.asarray(part.fine), part.cell[column], part.weight[column]
    before, after = (
        (1 - weight) * fine[cell, y] + weight * fine[cell + 1, y]
        for y in (np.maximum(row - 1, 0), np.minimum(row, FINE_MASK - 1))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = np.nan_to_num((after - np.float32(threshold)) / (after - before))
    return Crossings(column + part.first, row, np.clip(rest, 0, 1))


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
