"""Checks before training that a network's windows fit the objects of a dataset."""

import numpy as np

from fastmask_jax.data.labels import fitting_objects, trainable, whole_boxes
from fastmask_jax.data.pipeline import TrainSpec
from fastmask_jax.data.records import MixedRecords, RecordSource
from fastmask_jax.errors import InvalidInput
from fastmask_jax.geometry import WINDOW, resized_size

IMAGES = 200  # sampled images with objects, evenly spaced; their files are read, but not decoded
SCALES = 5


def check_objects_fit(records: RecordSource | MixedRecords, spec: TrainSpec) -> str:
    """Counts the objects of some images that fit a window at one of the scales.

    Args:
      records: the dataset.
      spec: scales, strides and labels of the training.

    Returns:
      A one-line summary.

    Raises:
      ValueError: there are no objects, or none fits; the message gives their sizes.
    """
    scales = np.linspace(min(spec.long_edges), max(spec.long_edges), SCALES).round().astype(int).tolist()
    some = np.flatnonzero(records.index.objects > 0)
    numbers = some[np.linspace(0, len(some) - 1, min(IMAGES, len(some))).round().astype(int)].tolist()
    objects = fitting = 0
    longest: list[float] = []
    for record in (records[number] for number in numbers):
        boxes, size = whole_boxes(record.boxes), (record.height, record.width)
        real = trainable(boxes, record.crowd)
        fits = [
            fitting_objects(boxes, record.crowd, size, resized_size(*size, scale), spec.strides, spec.labels).any(0)
            for scale in scales
        ]
        objects, fitting = objects + int(real.sum()), fitting + int(np.any(fits, axis=0).sum())
        longest += (boxes[real, 2:].max(axis=1) * (scales[-1] / max(size))).tolist()
    if not objects:
        raise InvalidInput(f"no object to train on in {len(records)} images: they have none, or crowds alone")
    least = (spec.labels.finest_fit_low or spec.labels.fit_low) * WINDOW * min(spec.strides)
    most = spec.labels.fit_high * WINDOW * max(spec.strides)
    if not fitting:
        sizes = f"{min(longest):.0f} to {max(longest):.0f} pixels, and windows take {least:.0f} to {most:.0f}"
        raise InvalidInput(
            f"none of {objects} objects in {len(numbers)} images fits a window: at long edge {scales[-1]} their "
            f"longest sides are {sizes}; change data.long_edges and data.buckets"
        )
    return f"{fitting} of {objects} objects in {len(numbers)} images fit a window"
