from __future__ import annotations

import math
import pickle

import pytest

from monai_kd.schedules import linear, sigmoid_ramp_up, silent_before, starts_at, weight_at


def test_sigmoid_ramp_up_is_the_papers_formula():
    schedule = sigmoid_ramp_up(8, weight=3.0)
    for epoch in range(1, 9):
        t = (epoch - 1) / 8
        assert schedule(epoch) == pytest.approx(3.0 * math.exp(-5 * (1 - t) ** 2))
    assert [schedule(epoch) for epoch in (9, 10, 1000)] == [3.0] * 3


@pytest.mark.parametrize("schedule", [sigmoid_ramp_up(5, 2.0), linear(0.5, 2.0, 5)])
def test_ramps_only_rise(schedule):
    values = [schedule(epoch) for epoch in range(1, 12)]
    assert values == sorted(values)
    assert values[0] < values[4] < values[5] == values[-1] == 2.0


def test_linear_goes_both_ways():
    assert [linear(0, 4, 4)(epoch) for epoch in range(1, 7)] == [0, 1, 2, 3, 4, 4]
    assert [linear(4, 0, 4)(epoch) for epoch in range(1, 7)] == [4, 3, 2, 1, 0, 0]


def test_starts_at_is_0_before_and_the_weight_from_that_epoch_on():
    assert [starts_at(3, 0.5)(epoch) for epoch in range(1, 6)] == [0, 0, 0.5, 0.5, 0.5]
    assert starts_at(1, 0.5)(1) == 0.5


def test_a_later_schedule_begins_as_if_its_start_were_epoch_1():
    inner = linear(1.0, 3.0, 2)
    assert [starts_at(4, inner)(epoch) for epoch in range(1, 8)] == [0, 0, 0, *map(inner, range(1, 5))]


def test_silent_before_is_0_and_then_where_the_schedule_is_by_then():
    inner = linear(1.0, 3.0, 4)
    assert [silent_before(4, inner)(epoch) for epoch in range(1, 8)] == [0, 0, 0, *map(inner, range(4, 8))]
    assert [silent_before(3, 0.5)(epoch) for epoch in range(1, 5)] == [0, 0, 0.5, 0.5]
    assert [silent_before(1, inner)(epoch) for epoch in range(1, 8)] == [inner(epoch) for epoch in range(1, 8)]


def test_a_silent_schedule_is_asked_for_no_epoch_before():
    asked = []
    schedule = silent_before(3, lambda epoch: asked.append(epoch) or 1.0)
    asked.clear()
    assert [schedule(epoch) for epoch in (1, 2, 3)] == [0, 0, 1]
    assert asked == [3]


@pytest.mark.parametrize("wrapper", [starts_at, silent_before])
@pytest.mark.parametrize("bad", [-1.0, math.nan, sigmoid_ramp_up(5, -1.0)])
def test_a_later_weight_that_makes_no_sense_is_refused_at_once(wrapper, bad):
    with pytest.raises(ValueError, match="finite and not negative"):
        wrapper(21, bad)


def test_weight_at_takes_numbers_and_functions():
    assert weight_at(2, 7) == 2.0
    assert weight_at(lambda epoch: 10 * epoch, 7) == 70.0


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, lambda epoch: -epoch])
def test_weights_that_make_no_sense_are_refused(bad):
    with pytest.raises(ValueError, match=r"finite and not negative.*in epoch 2"):
        weight_at(bad, 2)


@pytest.mark.parametrize(
    "make",
    [lambda: linear(0, 1, 0), lambda: sigmoid_ramp_up(0), lambda: starts_at(0), lambda: silent_before(0)],
)
def test_lengths_and_starts_below_one_epoch_are_refused(make):
    with pytest.raises(ValueError, match="epoch"):
        make()


@pytest.mark.parametrize(
    "schedule",
    [linear(0, 1, 4), sigmoid_ramp_up(4), starts_at(2, linear(0, 1, 4)), silent_before(2, linear(0, 1, 4))],
)
def test_schedules_can_be_pickled(schedule):
    copy = pickle.loads(pickle.dumps(schedule))  # noqa: S301
    assert [copy(epoch) for epoch in range(1, 7)] == [schedule(epoch) for epoch in range(1, 7)]
