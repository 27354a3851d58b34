"""Counts of objects that fit windows, by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from fastmask_jax.data.fit_check import check_objects_fit
from fastmask_jax.data.labels import LabelSpec
from fastmask_jax.data.pipeline import TrainSpec
from fastmask_jax.data.records import Record, RecordSource

LABELS = LabelSpec(0.5, 0.8, 0.2, 64, 64, 64)


class SomeRecords(RecordSource):
    """Images of 100 x 200 pixels with objects of the given sides; negative sides are crowds."""

    def __init__(self, *sides: list[int]) -> None:
        self._sides = sides
        self.index = SimpleNamespace(objects=np.array([sum(side > 0 for side in some) for some in sides]))

    def __len__(self) -> int:
        return len(self._sides)

    def __getitem__(self, number: int) -> Record:
        sides = np.array(self._sides[number], np.float32)
        n = len(sides)
        boxes = np.stack([np.zeros(n), np.zeros(n), np.abs(sides), np.abs(sides) / 2], 1).astype(np.float32)
        ids, areas = np.arange(n), np.ones(n, np.float32)
        return Record(number, "a.jpg", 100, 200, b"", ids, boxes, areas, sides < 0, [{}] * n)


def spec(strides: tuple[int, ...], long_edges: tuple[int, ...]) -> TrainSpec:
    return TrainSpec(strides=strides, long_edges=long_edges, labels=LABELS)


def test_objects_are_counted_at_every_scale():
    # Windows of 80 and 160 pixels take sides of 40 to 64 and 80 to 128. At 200 objects are as in the file.
    records = SomeRecords([15, 20, 64], [70, -50], [], [129, 10])
    line = check_objects_fit(records, spec((8, 16), (200, 300, 400)))
    assert line == "3 of 6 objects in 3 images fit a window"  # 20 at 400, 64 at 200, 70 at 300
    line = check_objects_fit(records, spec((8, 16), (200,)))
    assert line == "1 of 6 objects in 3 images fit a window"  # 64


def test_objects_that_no_window_fits_are_named():
    with pytest.raises(
        ValueError,
        match=r"none of 2 objects in 1 images fits a window: at long edge 399 .* 20 to 40 .* take 40 to 128;",
    ):
        check_objects_fit(SomeRecords([10, 20]), spec((8, 16), (300, 399)))


@pytest.mark.parametrize("sides", [[[]], [[-50, -60], []]])
def test_no_objects_or_crowds_alone(sides):
    with pytest.raises(ValueError, match="no object to train on"):
        check_objects_fit(SomeRecords(*sides), spec((8, 16), (200,)))
