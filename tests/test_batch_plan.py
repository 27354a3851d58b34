"""The batch plan: a shuffled, endless, seekable sequence that shows each image once per epoch."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmask_jax.data.batch_plan import BatchPlan
from fastmask_jax.geometry import resized_size

BUCKETS = ((64, 48), (48, 64), (64, 64))


def make_plan(sizes, usable=None, batch_size=4, buckets=BUCKETS, seed=0):
    sizes = np.array(sizes, np.int64).reshape(-1, 2)
    usable = np.ones(len(sizes), bool) if usable is None else np.array(usable)
    return BatchPlan(
        sizes[:, 0], sizes[:, 1], usable, batch_size=batch_size, buckets=buckets, long_edge_max=64, seed=seed
    )


def random_sizes(count, seed=0):
    return np.random.default_rng(seed).integers(10, 100, (count, 2))


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 100), st.integers(1, 100)), min_size=1, max_size=40),
    unusable=st.sets(st.integers(1, 39)),
    batch_size=st.integers(1, 9),
    square_only=st.booleans(),
    seed=st.integers(0, 5),
)
def test_every_usable_image_once_an_epoch(sizes, unusable, batch_size, square_only, seed):
    usable = np.array([n not in unusable for n in range(len(sizes))])
    buckets = BUCKETS[2:] if square_only else BUCKETS
    plan = make_plan(sizes, usable, batch_size, buckets, seed)
    assert plan.images + plan.left_out == len(sizes)
    assert plan.left_out == (~usable).sum()
    for epoch in range(2):
        steps = [plan[epoch * plan.steps_per_epoch + place] for place in range(plan.steps_per_epoch)]
        for bucket, numbers in steps:
            assert numbers.shape == (batch_size,)
            for n in numbers:
                need = resized_size(*sizes[n], 64)
                assert need[0] <= buckets[bucket][0] and need[1] <= buckets[bucket][1]
        seen = np.bincount(np.concatenate([numbers for _, numbers in steps]), minlength=len(sizes))
        assert not seen[~usable].any()
        assert (seen[usable] >= 1).all()
        # repeated images only fill batches: at most one per bucket that no other bucket contains
        assert seen.sum() - usable.sum() <= (batch_size - 1) * (1 if square_only or (64, 64) in buckets else 2)


def test_nothing_is_shown_twice_where_batches_fill():
    plan = make_plan([(40, 80)] * 12, batch_size=4)
    assert plan.steps_per_epoch == 3
    assert sorted(np.concatenate([plan[step][1] for step in range(3)])) == list(range(12))
    assert {plan[step][0] for step in range(3)} == {1}


def test_left_overs_move_to_the_bucket_that_contains_them():
    plan = make_plan([(80, 40)] * 6 + [(40, 80)] * 6, batch_size=4)  # 4 + 2 tall, 4 + 2 wide
    steps = [plan[step] for step in range(plan.steps_per_epoch)]
    assert sorted(bucket for bucket, _ in steps) == [0, 1, 2]
    assert sorted(np.concatenate([numbers for _, numbers in steps])) == list(range(12))


def test_buckets_without_a_common_larger_one_are_filled_separately():
    plan = make_plan([(80, 40)] * 3 + [(40, 80)] * 3, batch_size=4, buckets=BUCKETS[:2])
    for step in range(plan.steps_per_epoch):
        bucket, numbers = plan[step]
        assert len(set(numbers)) == 3
        assert set(numbers) == ({0, 1, 2} if bucket == 0 else {3, 4, 5})


def test_one_image_fills_a_batch():
    bucket, numbers = make_plan([(40, 80)], batch_size=5)[123456789]
    assert bucket == 2  # promoted as far as it goes
    np.testing.assert_array_equal(numbers, [0] * 5)


def test_random_access_equals_reading_in_order():
    plan, other = make_plan(random_sizes(57)), make_plan(random_sizes(57))
    steps = list(range(4 * plan.steps_per_epoch))
    in_order = {step: plan[step] for step in steps}
    for step in np.random.default_rng(1).permutation(steps).tolist():
        assert other[step][0] == in_order[step][0]
        np.testing.assert_array_equal(other[step][1], in_order[step][1])


def test_epochs_and_seeds_differ_and_survive_pickling():
    plan, other_seed = make_plan(random_sizes(40)), make_plan(random_sizes(40), seed=1)
    copy = pickle.loads(pickle.dumps(plan))

    def epoch(of, number):
        start = number * of.steps_per_epoch
        return [n for step in range(of.steps_per_epoch) for n in of[start + step][1]]

    assert epoch(plan, 0) == epoch(copy, 0)
    assert epoch(plan, 0) != epoch(plan, 1)
    assert epoch(plan, 0) != epoch(other_seed, 0)
    assert plan.steps_per_epoch == other_seed.steps_per_epoch


def test_fitting_lists_the_images_of_a_bucket():
    plan = make_plan([(80, 40), (40, 80), (60, 60), (90, 30)], usable=[True, True, True, False])
    np.testing.assert_array_equal(plan.fitting(0), [0])
    np.testing.assert_array_equal(plan.fitting(1), [1])
    np.testing.assert_array_equal(plan.fitting(2), [0, 1, 2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": [(40, 80)], "usable": [False]}, "none of the 1 images"),
        ({"sizes": [(80, 80)], "buckets": BUCKETS[:2]}, "larger than every bucket"),
        ({"sizes": [(40, 80)], "batch_size": 0}, "batch_size=0"),
    ],
)
def test_impossible_plans_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_plan(**arguments)
    with pytest.raises(IndexError, match="negative"):
        make_plan([(40, 80)])[-1]


def test_weights_say_how_often_an_image_is_shown():
    """Twelve images of weight 1, eight of weight ¼ and two of weight 3; the images of each set take turns."""
    weights = np.repeat([1.0, 0.25, 3.0], [12, 8, 2])
    sizes = np.array([(40, 80)] * 22)
    plan = BatchPlan(
        sizes[:, 0], sizes[:, 1], np.ones(22, bool), batch_size=2, buckets=BUCKETS, long_edge_max=64, seed=0,
        weights=weights,
    )  # fmt: skip
    assert plan.steps_per_epoch == (12 + 2 + 6) // 2
    epochs = np.array(
        [
            np.bincount(np.concatenate([plan[e * 10 + k][1] for k in range(10)]), minlength=22)
            for e in range(4)
        ]
    )  # fmt: skip
    np.testing.assert_array_equal(epochs.sum(0), np.repeat([4, 1, 12], [12, 8, 2]))
    assert (epochs[:, :12] == 1).all() and (epochs[:, 20:] == 3).all()
