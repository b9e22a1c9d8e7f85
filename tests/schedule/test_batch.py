import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.errors import PlanError
from keepwarm.schedule.batch import BatchRamp, batches, scaled_lr

ramps = st.tuples(st.integers(1, 12), st.integers(1, 6), st.integers(1, 9), st.integers(1, 3000))


def walked(final: int, ramp: BatchRamp, steps: int) -> list[int]:
    """Batch sizes one after another, by the rule as Megatron-LM states it."""
    increments, sizes, consumed = (final - ramp.start) // ramp.increment, [], 0
    for _ in range(steps):
        grown = ramp.increment * (consumed * increments // ramp.ramp_samples)
        sizes.append(min(final, ramp.start + grown))
        consumed += sizes[-1]
    return sizes


def test_without_a_ramp_every_step_is_the_same() -> None:
    cut = batches(16)
    assert (cut.size(0), cut.size(9), cut.samples(10), cut.largest) == (16, 16, 160, 16)
    assert [cut.steps(n) for n in (0, 1, 16, 17)] == [0, 1, 1, 2]


def test_a_ramp_by_hand() -> None:
    cut = batches(16, BatchRamp(4, 4, 96))  # 3 increments, one every 32 samples
    assert [cut.size(step) for step in range(18)] == [4] * 8 + [8] * 4 + [12] * 3 + [16] * 3
    assert cut.samples(15) == 100 and cut.samples(16) == 116


@given(ramps)
def test_a_ramp_walks_as_the_rule_says(numbers: tuple[int, int, int, int]) -> None:
    start, increment, increments, ramp_samples = numbers
    final, ramp = start + increment * increments, BatchRamp(start, increment, ramp_samples)
    cut, sizes = batches(final, ramp), walked(final, ramp, 400)
    assert [cut.size(step) for step in range(400)] == sizes
    assert cut.samples_of(range(400)).tolist() == [cut.samples(step) for step in range(400)]
    assert [cut.samples(step) for step in range(0, 400, 37)] == [sum(sizes[:step]) for step in range(0, 400, 37)]


@given(ramps, st.integers(1, 10**12))
def test_steps_are_the_fewest_that_hold_the_samples(numbers: tuple[int, int, int, int], samples: int) -> None:
    start, increment, increments, ramp_samples = numbers
    cut = batches(start + increment * increments, BatchRamp(start, increment, ramp_samples))
    steps = cut.steps(samples)
    assert cut.samples(steps - 1) < samples <= cut.samples(steps)


@pytest.mark.parametrize("ramp", [BatchRamp(4, 5, 10), BatchRamp(16, 4, 10), BatchRamp(0, 4, 10), BatchRamp(4, 4, 0)])
def test_a_ramp_that_leads_elsewhere_is_refused(ramp: BatchRamp) -> None:
    with pytest.raises(PlanError, match="does not come to global_batch_size 16"):
        batches(16, ramp)


def test_a_ramp_survives_json() -> None:
    assert BatchRamp.from_dict(BatchRamp(4, 4, 96).to_dict()) == BatchRamp(4, 4, 96)


def test_lr_of_a_scaled_batch() -> None:
    assert scaled_lr(3e-4, 16, 64, "none") == 3e-4
    assert scaled_lr(3e-4, 16, 64, "sqrt") == 6e-4
    assert scaled_lr(3e-4, 16, 64, "linear") == 1.2e-3
    assert scaled_lr(3e-4, 16, 8, "sqrt") == pytest.approx(3e-4 / math.sqrt(2), rel=1e-15)
