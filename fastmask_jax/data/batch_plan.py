"""Plans the images of each training step: an infinite, stateless, pure function of (seed, step)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from fastmask_jax.errors import InvalidInput
from fastmask_jax.geometry import choose_bucket, resized_size


class BatchPlan:
    """`plan[step]` → (number of the bucket, record numbers int64[batch_size]) for every step ≥ 0.

    All images of a batch share a bucket, chosen by their size at the largest long edge. An epoch shows each usable
    image once (for a set of n images of weight w: w * n of them in turn), in an order drawn from (seed, epoch). Images
    that do not fill a batch of their bucket join the next larger bucket that contains it. If there is none, images that
    fit the bucket are repeated to fill the batch.

    Attributes:
      batch_size: images per batch, over all processes.
      buckets: padded (height, width) of each bucket.
      long_edge_max: the largest long edge that the buckets hold.
      images: number of usable images.
      left_out: number of images without a usable object.
      steps_per_epoch: the same in every epoch.
    """

    def __init__(
        self,
        heights: Int[np.ndarray, "n"],
        widths: Int[np.ndarray, "n"],
        usable: Bool[np.ndarray, "n"],
        *,
        batch_size: int,
        buckets: Sequence[tuple[int, int]],
        long_edge_max: int,
        seed: int,
        weights: Float[np.ndarray, "n"] | None = None,
    ):
        """Sizes in original pixels, usability and weights (None: all 1) of all records.

        Raises:
          ValueError: no image is usable, an image fits no bucket, or batch_size < 1.
        """
        if batch_size < 1:
            raise InvalidInput(f"batch_size={batch_size} must be at least 1")
        if not usable.any():
            raise InvalidInput(f"none of the {len(usable)} images has an object to train on")
        self.batch_size = batch_size
        self.buckets = [(int(height), int(width)) for height, width in buckets]
        self.long_edge_max = long_edge_max
        self._seed = seed
        self._records = np.flatnonzero(usable)
        self.images = len(self._records)
        self.left_out = len(usable) - self.images

        sizes = np.stack([heights, widths], axis=1)[self._records]
        self.pixels = int(sizes.prod(axis=1, dtype=np.int64).sum())  # of all images
        distinct, inverse = np.unique(sizes, axis=0, return_inverse=True)
        distinct = [(int(height), int(width)) for height, width in distinct]
        inverse = inverse.reshape(-1)
        self._bucket_of = np.array([choose_bucket(*size, long_edge_max, self.buckets) for size in distinct])[inverse]
        self._largest_size = np.array([resized_size(*size, long_edge_max) for size in distinct])[inverse]
        self._by_area = sorted(range(len(self.buckets)), key=lambda b: (np.prod(self.buckets[b]), b))
        weight = (np.ones(len(usable)) if weights is None else weights)[self._records]
        groups = np.unique(np.stack([self._bucket_of, weight]), axis=1, return_inverse=True)[1].reshape(-1)
        members = [np.flatnonzero(groups == group) for group in range(groups.max() + 1)]
        self._groups = [(numbers, max(round(weight[numbers[0]] * len(numbers)), 1)) for numbers in members]
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.steps_per_epoch = len(self._epoch(0)[0])

    def __getitem__(self, step: int) -> tuple[int, Int64[np.ndarray, "batch_size"]]:
        if step < 0:
            raise IndexError(f"step {step} is negative")
        epoch, place = divmod(step, self.steps_per_epoch)
        buckets, batches = self._epoch(epoch)
        return int(buckets[place]), self._records[batches[place]]

    def fitting(self, bucket: int) -> Int64[np.ndarray, "m"]:
        """Returns the numbers of all usable records whose image fits a bucket at the largest long edge."""
        return self._records[self._fits(bucket)]

    def _fits(self, bucket: int) -> Bool[np.ndarray, "m"]:
        return (self._largest_size <= self.buckets[bucket]).all(axis=1)

    def _next_larger(self, bucket: int) -> int | None:
        """Returns the smallest larger bucket that contains this one."""
        larger = self._by_area[self._by_area.index(bucket) + 1 :]
        return next((b for b in larger if np.all(np.array(self.buckets[b]) >= self.buckets[bucket])), None)

    def _epoch(self, epoch: int) -> tuple[Int64[np.ndarray, "steps"], Int64[np.ndarray, "steps batch_size"]]:
        """Returns buckets and images of the steps of an epoch; caches the last two epochs."""
        if epoch not in self._epochs:
            kept = dict(list(self._epochs.items())[-1:])
            self._epochs = {**kept, epoch: self._draw_epoch(epoch)}
        return self._epochs[epoch]

    def _shown(self, epoch: int) -> Int64[np.ndarray, "m"]:
        """Returns the images of an epoch, sorted. Those of one bucket and weight take turns, each once per round."""
        parts = []
        for group, (numbers, count) in enumerate(self._groups):
            first, last = epoch * count, (epoch + 1) * count
            for turn in range(first // len(numbers), -(-last // len(numbers))):
                begin = turn * len(numbers)
                order = np.random.default_rng((self._seed, group, turn)).permutation(numbers)
                parts.append(order[max(first - begin, 0) : last - begin])
        return np.sort(np.concatenate(parts))

    def _draw_epoch(self, epoch: int) -> tuple[Int64[np.ndarray, "steps"], Int64[np.ndarray, "steps batch_size"]]:
        rng = np.random.default_rng((self._seed, epoch))
        order = rng.permutation(self._shown(epoch))
        waiting = [order[self._bucket_of[order] == bucket] for bucket in range(len(self.buckets))]
        buckets, batches = [], []
        for bucket in self._by_area:  # small to large, because leftover images move up
            images = waiting[bucket]
            left_over = images[len(images) // self.batch_size * self.batch_size :]
            larger = self._next_larger(bucket)
            if larger is not None:
                waiting[larger] = np.concatenate([waiting[larger], left_over])
                images = images[: len(images) - len(left_over)]
            elif len(left_over):
                fitting = order[self._fits(bucket)[order]]
                others = fitting[~np.isin(fitting, left_over)]
                fill = np.resize(np.concatenate([others, left_over]), self.batch_size - len(left_over))
                images = np.concatenate([images, fill])
            batches.append(images.reshape(-1, self.batch_size))
            buckets.append(np.full(len(batches[-1]), bucket))
        shuffled = rng.permutation(sum(map(len, batches)))
        return np.concatenate(buckets)[shuffled], np.concatenate(batches)[shuffled]
