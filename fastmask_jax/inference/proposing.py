"""From batches to proposals in the original images: the network on the devices, the pasting in threads beside it."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np

from fastmask_jax.data.batches import UseBatch
from fastmask_jax.inference.proposer import Proposer
from fastmask_jax.inference.rle import Proposals, masks_to_results
from fastmask_jax.models.fastmask import Decoded

PASTING_THREADS = 2


class ImageProposals(NamedTuple):
    """The proposals of one image."""

    image_id: int
    proposals: Proposals


def propose_all(proposer: Proposer, batches: Iterable[UseBatch], mask_threshold: float) -> Iterator[ImageProposals]:
    """Proposals of every image of the batches, in their order.

    While the devices work on a batch, threads write the masks of the one before it.
    """
    with ThreadPoolExecutor(PASTING_THREADS) as pool:
        pending: list[tuple[int, Future[Proposals]]] = []
        working: tuple[UseBatch, Decoded] | None = None
        for batch in batches:
            started = batch, proposer(batch)
            yield from _collected(pending)
            pending = _paste(pool, working, proposer.strides, mask_threshold)
            working = started
        yield from _collected(pending)
        yield from _collected(_paste(pool, working, proposer.strides, mask_threshold))


def _paste(
    pool: ThreadPoolExecutor, working: tuple[UseBatch, Decoded] | None, strides: tuple[int, ...], threshold: float
) -> list[tuple[int, "Future[Proposals]"]]:
    if working is None:
        return []
    batch, decoded = working
    scores, windows, logits = jax.device_get((decoded.scores, decoded.windows, decoded.mask_logits))
    return [
        (
            int(batch.image_id[row]),
            pool.submit(
                masks_to_results,
                scores[row],
                windows[row],
                logits[row],
                strides=strides,
                resized=tuple(int(side) for side in batch.size[row]),
                original=tuple(int(side) for side in batch.original_size[row]),
                threshold=threshold,
            ),
        )
        for row in np.flatnonzero(batch.image_id >= 0)
    ]


def _collected(pending: list[tuple[int, "Future[Proposals]"]]) -> Iterator[ImageProposals]:
    for image_id, proposals in pending:
        yield ImageProposals(image_id, proposals.result())
