"""What the data folder hands on: padded batches for training and for use (docs/design.md, letters and contracts)."""

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


class InferenceBatch(NamedTuple):
    """Images in use. All share a bucket; rows with image_id −1 only fill the batch (4×4 black pixels)."""

    image: Float32[np.ndarray, "B H W 3"]  # resized RGB, INTER_LINEAR on float32; zero beyond `size`
    size: Int32[np.ndarray, "B 2"]  # resized (height, width)
    original_size: Int32[np.ndarray, "B 2"]  # (height, width) of the file
    image_id: Int64[np.ndarray, "B"]


class InferenceImage(NamedTuple):
    """One image in use."""

    image: Float32[np.ndarray, "h w 3"]  # resized RGB
    original_size: tuple[int, int]  # (height, width)
    image_id: int


def pack_inference_batch(images: Sequence[InferenceImage], bucket: tuple[int, int], batch_size: int) -> InferenceBatch:
    """A batch of `batch_size` rows padded to a bucket (height, width), of at most so many images that all fit it."""
    batch = InferenceBatch(
        image=np.zeros((batch_size, *bucket, 3), np.float32),
        size=np.full((batch_size, 2), MULTIPLE, np.int32),
        original_size=np.full((batch_size, 2), MULTIPLE, np.int32),
        image_id=np.full(batch_size, -1, np.int64),
    )
    for row, (image, original_size, image_id) in enumerate(images):
        h, w = image.shape[:2]
        batch.image[row, :h, :w] = image
        batch.size[row], batch.original_size[row], batch.image_id[row] = (h, w), original_size, image_id
    return batch
