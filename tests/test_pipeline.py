"""The data pipeline: the same batches for any number of workers, start and share; errors are reported."""

import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from fastmask_jax.data import pipeline
from fastmask_jax.data.augment import mirror, random_flip
from fastmask_jax.data.batch_plan import BatchPlan
from fastmask_jax.data.batches import TrainBatch
from fastmask_jax.data.labels import label_windows
from fastmask_jax.data.pipeline import BatchLoader, TrainSpec, load_sample, train_batches
from fastmask_jax.data.records import Record
from fastmask_jax.geometry import resized_size
from tests.tiny import label_spec

BUCKETS = ((96, 128), (128, 96), (128, 128))
SPEC = TrainSpec(strides=(8, 12, 16), long_edges=(100, 112, 128), labels=label_spec(mask_positives=8))


def make_record(number, height, width, objects=4):
    """Returns a record with noise and bright rectangles, some of which are objects that fit a window."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
    boxes, rles = [], []
    for _ in range(objects):
        w, h = rng.integers(min(height, width) // 3, min(height, width) // 2, 2)
        x, y = rng.integers(0, width - w), rng.integers(0, height - h)
        image[y : y + h, x : x + w] = rng.integers(100, 255, 3)
        mask = np.zeros((height, width), np.uint8, order="F")
        mask[y : y + h, x : x + w] = 1
        boxes.append((x, y, w, h))
        rles.append(coco_mask.encode(mask))
    return Record(
        image_id=1000 + number,
        file_name=f"{number}.png",
        height=height,
        width=width,
        image_bytes=cv2.imencode(".png", image[:, :, ::-1])[1].tobytes(),
        object_ids=np.arange(objects),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        areas=np.array([w * h for _, _, w, h in boxes], np.float32),
        crowd=np.zeros(objects, bool),
        rles=rles,
    )


SIZES = [(70, 100), (100, 70), (90, 90), (60, 100), (100, 60), (64, 80), (70, 100), (80, 75), (60, 90)]
RECORDS = [make_record(number, *size) for number, size in enumerate(SIZES)]


def make_plan(records, batch_size=4, seed=0):
    return BatchPlan(
        np.array([record.height for record in records]),
        np.array([record.width for record in records]),
        np.array([(~record.crowd).any() for record in records]),
        batch_size=batch_size,
        buckets=BUCKETS,
        long_edge_max=128,
        seed=seed,
    )


def read(records=RECORDS, start=0, steps=5, workers=0, seed=3, batch_size=4, **share):
    batches = train_batches(records, SPEC, make_plan(records, batch_size), start, workers=workers, seed=seed, **share)
    try:
        return list(itertools.islice(batches, steps))
    finally:
        batches.close()


def assert_same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for name, x, y in zip(TrainBatch._fields, a, b, strict=True):
            np.testing.assert_array_equal(x, y, err_msg=name)
            assert x.dtype == y.dtype


def test_batches_keep_the_contract():
    plan = make_plan(RECORDS)
    for step, batch in enumerate(read()):
        bucket, numbers = plan[step]
        H, W = BUCKETS[bucket]
        expected = {
            "image": ((4, H, W, 3), np.uint8),
            "size": ((4, 2), np.int32),
            "image_id": ((4,), np.int64),
            "slot": ((4,), np.int32),
            "score_windows": ((4, 64, 3), np.int32),
            "score_labels": ((4, 64), np.float32),
            "score_weights": ((4, 64), np.float32),
            "mask_windows": ((4, 8, 3), np.int32),
            "mask_weights": ((4, 8), np.float32),
            "mask_targets": ((4, 8, 160, 160), np.uint8),
            "attention_targets": ((4, 8, 10, 10), np.uint8),
            "objectness_targets": ((4, 0), np.uint8),
        }
        assert {name: (x.shape, x.dtype) for name, x in batch._asdict().items()} == expected
        np.testing.assert_array_equal(batch.slot, range(4))
        np.testing.assert_array_equal(batch.image_id, 1000 + numbers)
        for row, (h, w) in enumerate(batch.size):
            assert (h, w) in {resized_size(*SIZES[numbers[row]], edge) for edge in SPEC.long_edges}
            assert not batch.image[row, h:].any() and not batch.image[row, :, w:].any()
            assert batch.image[row, :h, :w].any(axis=2).all()
        real = batch.mask_weights == 1
        assert real.any(axis=1).all()
        assert batch.mask_targets[real].any(axis=(1, 2)).all() and not batch.mask_targets[~real].any()
        assert batch.attention_targets[real].any(axis=(1, 2)).all() and not batch.attention_targets[~real].any()


def test_labels_and_targets_fit_the_image():
    """A mask target pasted at its window covers a bright rectangle: tests the geometry end to end."""
    shown = 0
    for batch in read(records=[make_record(7, 90, 90, objects=1)], steps=4, batch_size=1):
        bright = batch.image[0].max(axis=2) > 80
        for window, weight, target in zip(
            batch.mask_windows[0], batch.mask_weights[0], batch.mask_targets[0], strict=True
        ):
            if weight:
                stride = SPEC.strides[window[0]]
                small = cv2.resize(target, (10 * stride, 10 * stride), interpolation=cv2.INTER_AREA)
                canvas = np.zeros((512, 512), bool)  # with room for windows beyond the image
                top, left = 192 + (window[1] - 5) * stride, 192 + (window[2] - 5) * stride
                canvas[top : top + 10 * stride, left : left + 10 * stride] = small >= 0.5
                pasted = canvas[192 : 192 + 128, 192 : 192 + 128]
                assert (pasted & bright).sum() / (pasted | bright).sum() > 0.93
                shown += 1
    assert shown


def test_any_number_of_workers_gives_the_same_batches():
    assert_same(read(workers=0, start=2), read(workers=2, start=2))


def test_starting_at_a_step_equals_running_to_it():
    whole = read(steps=9)
    assert_same(whole[5:], read(start=5, steps=4))
    assert_same(whole, read(steps=9))


def test_seeds_differ():
    assert any((a.score_windows != b.score_windows).any() for a, b in zip(read(), read(seed=4), strict=True))


def test_processes_share_a_batch():
    whole = read()
    shares = [read(process_index=index, process_count=2) for index in range(2)]
    joined = [TrainBatch(*map(np.concatenate, zip(*parts, strict=True))) for parts in zip(*shares, strict=True)]
    assert_same(whole, joined)


def test_an_image_without_positive_windows_is_replaced_by_another_of_its_bucket():
    tiny = make_record(0, 90, 90, objects=1)._replace(boxes=np.array([[5, 5, 2, 2]], np.float32))
    batches = read(records=[tiny, *RECORDS[1:]], steps=12)
    assert not any(1000 in batch.image_id for batch in batches)
    assert all((batch.mask_weights.sum(axis=1) > 0).all() for batch in batches)
    alone = read(records=[tiny], steps=1, batch_size=2)[0]
    np.testing.assert_array_equal(alone.image_id, [1000, 1000])
    assert not alone.score_weights.any() and not alone.mask_weights.any()


def test_flip_is_exact():
    drawn = load_sample(RECORDS[0])
    flipped = mirror(drawn)
    np.testing.assert_array_equal(flipped.image, drawn.image[:, ::-1])
    for one, other, (x, y, w, h) in zip(drawn.masks, flipped.masks, flipped.boxes.tolist(), strict=True):
        fx, fy, crop = other.crop()
        assert (fx, fy, *crop.shape[::-1]) == (x, y, w, h)  # these masks fill their boxes
        np.testing.assert_array_equal(crop, one.crop()[2][:, ::-1])
    again = mirror(flipped)
    np.testing.assert_array_equal(again.image, drawn.image)
    np.testing.assert_array_equal(again.boxes, drawn.boxes)
    for one, other in zip(again.masks, drawn.masks, strict=True):
        assert one.crop()[:2] == other.crop()[:2]
        np.testing.assert_array_equal(one.crop()[2], other.crop()[2])
    flips = [random_flip(drawn, np.random.default_rng(seed)) is not drawn for seed in range(200)]
    assert 70 < sum(flips) < 130


def test_records_that_are_kept_give_the_same_batches(monkeypatch):
    """Two epochs with every augmentation: nothing changes the kept images and masks."""
    augmented = replace(SPEC, random_crop=True, color_jitter=0.3, copy_paste=3, long_edges=(100, 128, 190))
    plan = make_plan(RECORDS)
    load = BatchLoader(RECORDS, augmented, plan, range(4), 0)
    assert plan.pixels == sum(height * width for height, width in SIZES)
    steps = range(2 * plan.steps_per_epoch)
    kept = [load(step) for step in steps]
    monkeypatch.setattr(pipeline, "KEPT_BYTES", 3 * plan.pixels - 1)
    assert_same(kept, [BatchLoader(RECORDS, augmented, plan, range(4), 0)(step) for step in steps])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_record_is_named_in_one_line(workers):
    broken = RECORDS[2]._replace(image_bytes=RECORDS[2].image_bytes[:50])
    with pytest.raises(ValueError, match=r"image 1002 \(2.png\) cannot be decoded") as caught:
        read(records=[broken], workers=workers, batch_size=1)
    assert "\n" not in str(caught.value)


def test_a_record_of_another_size_is_named():
    with pytest.raises(ValueError, match=r"image 1002 \(2.png\) has 90x90 pixels, but its record says 90x91"):
        load_sample(RECORDS[2]._replace(width=91))


def test_impossible_shares_and_scales_are_refused():
    with pytest.raises(ValueError, match="batch_size=4 cannot be shared evenly by 3 processes"):
        read(process_count=3)
    plan = make_plan(RECORDS)
    with pytest.raises(ValueError, match="long edge 130 is more"):
        train_batches(
            RECORDS, TrainSpec(strides=(8,), long_edges=(130,), labels=label_spec()), plan, 0, workers=0, seed=0
        )


def test_labels_do_not_depend_on_the_padding():
    """Windows are the same in any bucket: labels refer to the image's own grid."""
    drawn = load_sample(RECORDS[0])
    resized = resized_size(*drawn.size, 128)
    labels = label_windows(drawn.boxes, drawn.crowd, drawn.size, resized, SPEC.strides, SPEC.labels)
    cells = [-(-side // 8) for side in resized]
    finest = labels.windows[labels.windows[:, 0] == 0]
    assert tuple(finest[:, 1:].max(axis=0)) == tuple(cells)


def test_partly_labeled_sets_join_with_their_weight():
    """All windows of a fully labeled set are known; in a partly labeled one, only those near labels."""

    class Source(list):
        index = None

    from fastmask_jax.data.records import MixedRecords, RecordIndex, RecordSet

    def source(records):
        made = Source(records)
        made.index = RecordIndex(
            *(np.array([getattr(r, name) for r in records]) for name in ("image_id", "height", "width")),
            np.array([(~r.crowd).sum() for r in records]),
        )
        return made

    mixed = MixedRecords([RecordSet(source(RECORDS[:4]), 1.0, False), RecordSet(source(RECORDS[4:]), 0.5, True)])
    assert len(mixed) == len(RECORDS) and [mixed[n].image_id for n in range(9)] == [r.image_id for r in RECORDS]
    assert [mixed[n].partly_labeled for n in range(9)] == [False] * 4 + [True] * 5
    np.testing.assert_array_equal(mixed.weights, [1.0] * 4 + [0.5] * 5)
    with pytest.raises(IndexError, match="record 9 of 9"):
        mixed[9]
