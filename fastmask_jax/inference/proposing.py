"""From batches to proposals in the original images: the network on the devices, the pasting in threads beside it."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from fastmask_jax.data.batches import InferenceBatch
from fastmask_jax.inference.proposer import Proposer
from fastmask_jax.masks.rle import Proposals, masks_to_results
from fastmask_jax.masks.suppression import reranked_scores
from fastmask_jax.models.fastmask import Decoded

PASTING_THREADS = 2


class ImageProposals(NamedTuple):
    """The proposals of one image."""

    image_id: int
    proposals: Proposals


def propose_all(
    proposer: Proposer, batches: Iterable[InferenceBatch], mask_threshold: float, rerank_iou: float = 1.0
) -> Iterator[ImageProposals]:
    """Proposals of every image of the batches, in their order.

    While the devices work on a batch, threads write the masks of the one before it. A `rerank_iou` below 1 gives them
    `suppression.reranked_scores`.
    """
    with ThreadPoolExecutor(PASTING_THREADS) as pool:
        pending: list[tuple[int, Future[Proposals]]] = []
        working: tuple[InferenceBatch, Decoded] | None = None
        for batch in batches:
            started = batch, proposer(batch)
            yield from _collected(pending)
            pending = _paste(pool, working, proposer.strides, mask_threshold, rerank_iou)
            working = started
        yield from _collected(pending)
        yield from _collected(_paste(pool, working, proposer.strides, mask_threshold, rerank_iou))


def _paste(
    pool: ThreadPoolExecutor,
    working: tuple[InferenceBatch, Decoded] | None,
    strides: tuple[int, ...],
    threshold: float,
    rerank_iou: float,
) -> list[tuple[int, "Future[Proposals]"]]:
    if working is None:
        return []
    batch, decoded = working
    scores, windows, logits = jax.device_get((decoded.scores, decoded.windows, decoded.mask_logits))
    return [
        (
            int(batch.image_id[row]),
            pool.submit(
                _proposals,
                rerank_iou,
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


def _proposals(rerank_iou: float, *decoded: np.ndarray, **view: Any) -> Proposals:
    proposals = masks_to_results(*decoded, **view)
    return proposals._replace(scores=reranked_scores(proposals, rerank_iou)) if rerank_iou < 1 else proposals


def _collected(pending: list[tuple[int, "Future[Proposals]"]]) -> Iterator[ImageProposals]:
    for image_id, proposals in pending:
        yield ImageProposals(image_id, proposals.result())
