"""Padded batches for training and for inference (docs/design.md, letters and contracts)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8

from fastmask_jax.geometry import MULTIPLE


class TrainBatch(NamedTuple):
    """One host's images of a training step, with sampled windows and their targets. All images share a bucket."""

    image: UInt8[np.ndarray, "B H W 3"]  # resized RGB; zero beyond `size`
    size: Int32[np.ndarray, "B 2"]  # (height, width) of the resized image
    image_id: Int64[np.ndarray, "B"]  # stays on the host
    slot: Int32[np.ndarray, "B"]  # place in the global batch: seeds dropout
    score_windows: Int32[np.ndarray, "B S 3"]  # (level, i, j); padding rows are (0, 0, 0) with weight 0
    score_labels: Float32[np.ndarray, "B S"]  # 1 positive, 0 hard negative
    score_weights: Float32[np.ndarray, "B S"]  # 1 sampled, 0 padding
    mask_windows: Int32[np.ndarray, "B P 3"]
    mask_weights: Float32[np.ndarray, "B P"]
    mask_targets: UInt8[np.ndarray, "B P 160 160"]
    attention_targets: UInt8[np.ndarray, "B P 10 10"]
    objectness_targets: UInt8[np.ndarray, "B M"]  # of all windows of the bucket, see data/objectness_targets; or M = 0


class InferenceBatch(NamedTuple):
    """Images for inference. All share a bucket; rows without an image hold 4×4 black pixels."""

    image: Float32[np.ndarray, "B H W 3"]  # resized RGB, INTER_LINEAR on float32; zero beyond `size`
    size: Int32[np.ndarray, "B 2"]  # resized (height, width)


def pack_inference_batch(
    images: Sequence[Float32[np.ndarray, "_h _w 3"]], bucket: tuple[int, int], rows: int
) -> InferenceBatch:
    """Pads at most `rows` resized RGB images to a bucket (height, width) that holds each of them."""
    batch = InferenceBatch(np.zeros((rows, *bucket, 3), np.float32), np.full((rows, 2), MULTIPLE, np.int32))
    for row, image in enumerate(images):
        height, width = batch.size[row] = image.shape[:2]
        batch.image[row, :height, :width] = image
    return batch
