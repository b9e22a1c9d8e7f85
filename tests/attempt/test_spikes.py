"""What is a spike: exact borders, no false alarm on what is ordinary, and the same found from any cut of the records."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepwarm.attempt.spikes import Recent
from keepwarm.attempt.stability import STANDARD
from keepwarm.blend.mixture import combine
from keepwarm.blend.stream import Segment
from keepwarm.schedule.batch import batches

ONE = (Segment(0, combine([(Fraction(1), {"a": Fraction(1)})])),)
BATCH = batches(4)


def train(step, loss):
    return {"kind": "train", "step": step, "loss": float(loss), "grad_norm": 1.0}


def skipped(step, why="spike"):
    return {"kind": "event", "event": "skipped", "step": step, "why": why}


def recent(losses, stability=STANDARD, segments=ONE, first=1):
    return Recent(stability, BATCH, segments, [train(step, loss) for step, loss in enumerate(losses, start=first)])


def found_in(losses, segments=ONE, stability=STANDARD):
    """The steps found in a curve in which every step is trained on all the same."""
    judge, found = recent([], stability, segments), []
    for step, loss in enumerate(losses, start=1):
        if judge.find(step, loss, 1.0):
            found.append(step)
        judge.add(train(step, loss))
    return found


# median 3.0, MAD 0.1, largest 0.2 above: a spike is above 3.0 + 10 * 1.4826 * 0.1 = 4.4826
STEADY = [2.8, 2.9, 3.0, 3.1, 3.2] * 8


def test_what_is_not_finite_is_found_at_any_step():
    for loss, norm, kind, text in (
        (math.nan, 1.0, "non-finite loss", "the loss is not a finite number"),
        (math.inf, math.nan, "non-finite loss", "the loss is not a finite number"),
        (3.0, math.inf, "non-finite gradient", "the gradient is not a finite number"),
    ):
        finding = recent([]).find(1, loss, norm)
        assert (finding.kind, finding.text) == (kind, text)
    assert recent([]).find(1, math.nan, 1.0).numbers() == {"why": "non-finite loss", "loss": None, "grad_norm": 1.0}
    assert recent([], replace(STANDARD, spike="off")).find(1, math.nan, 1.0) is not None


def test_a_spike_lies_beyond_so_many_deviations():
    assert recent(STEADY).find(41, 4.482, 1.0) is None
    finding = recent(STEADY).find(41, 4.483, 2.5)
    assert finding.numbers() == {"why": "spike", "loss": 4.483, "grad_norm": 2.5}
    assert finding.text == ("the loss 4.483 is 10 deviations above the 3.000 of the last 40 steps (gradient norm 2.5)")
    assert recent(STEADY, replace(STANDARD, threshold=11.0)).find(41, 4.483, 2.5) is None
    assert recent(STEADY, replace(STANDARD, spike="off")).find(41, 99.0, 1.0) is None


def test_the_norm_of_the_gradient_and_a_fall_are_no_spikes():
    assert recent(STEADY).find(41, 3.0, 1e6) is None
    assert recent(STEADY).find(41, 0.01, 1.0) is None


def test_before_32_steps_nothing_is_judged():
    assert recent(STEADY[:31]).find(32, 99.0, 1.0) is None
    assert recent(STEADY[:32]).find(33, 99.0, 1.0) is not None


def test_only_the_last_steps_count():
    assert found_in([9.0, *STEADY[:35], 5.0]) == []  # twice as far above as the largest: 3 + 2 * 6
    assert recent([9.0] + STEADY * 2).find(82, 5.0, 1.0) is not None  # the 9.0 has left the window of 64


def test_a_rare_hard_part_of_the_mix_is_no_spike():
    rare = [3.0 + 0.01 * (step % 5) + (0.9 if step % 12 == 5 else 0.0) for step in range(2000)]
    typical, apart = np.median(rare), np.median(np.abs(np.array(rare) - np.median(rare)))
    assert (max(rare) - typical) / (1.4826 * apart) > 50  # a hump that the MAD does not see
    assert found_in(rare) == []
    assert found_in([*rare, 6.0]) == [2001]


def test_a_loss_that_does_not_move_gives_no_yardstick_finer_than_a_thousandth():
    assert recent([3.0] * 64).find(65, 3.029, 1.0) is None
    assert recent([3.0] * 64).find(65, 3.031, 1.0) is not None


def test_a_new_mix_begins_a_new_window():
    easy, hard = [2.0 + 0.01 * (n % 7) for n in range(100)], [6.0 + 0.01 * (n % 7) for n in range(100)]
    assert found_in(easy + hard) == [101]  # where nobody said that the mix is another
    other = combine([(Fraction(1), {"b": Fraction(1)})])
    for first_sample in (400, 397, 399):  # at the border of a step, or within step 100
        segments = (*ONE, Segment(first_sample, other))
        assert found_in([*easy[:99], 6.0 if first_sample < 400 else 2.0, *hard], segments) == []
        assert found_in([*easy, *hard[:40], 9.0], segments) == [141]


def test_three_in_a_row_are_no_batchs_fault():
    judge = recent(STEADY)
    for step in (41, 42, 43):
        assert judge.find(step, 7.0, 1.0) is not None
        judge.add(skipped(step))
    assert judge.find(44, 7.0, 1.0) is None
    for step in range(44, 44 + 32):  # trained on, at the new level, until that can be judged by
        assert judge.find(step, 7.0 + 0.01 * (step % 3), 1.0) is None
        judge.add(train(step, 7.0 + 0.01 * (step % 3)))
    assert judge.find(76, 7.02, 1.0) is None and judge.find(76, 9.0, 1.0) is not None


def test_two_in_a_row_and_what_a_rewind_passes_over_change_nothing():
    judge = recent(STEADY)
    for record in (
        skipped(41),
        skipped(42),
        train(43, 3.0),
        skipped(44),
        *(skipped(n, "rewind") for n in range(45, 60)),
    ):
        judge.add(record)
    assert judge.find(60, 7.0, 1.0) is not None


# A batch's loss is a mean over its tokens, so its tails are not far from those of a normal distribution.
noise = st.sampled_from(["normal", "student"])


def curve(seed, kind, steps, scale, floor=2.0, fall=60.0):
    rng = np.random.default_rng(seed)
    drawn = {
        "normal": lambda: rng.normal(size=steps),
        "student": lambda: rng.standard_t(30, size=steps) / math.sqrt(30 / 28),
    }[kind]()
    at = np.arange(steps)
    return floor + 5.0 * np.exp(-at / fall) + 2.0 / np.sqrt(at + 1.0) + scale * drawn


@settings(max_examples=12)
@given(st.integers(0, 2**32), noise, st.sampled_from([0.003, 0.02, 0.1]), st.sampled_from([5.0, 60.0, 600.0]))
def test_a_falling_noisy_curve_gives_no_alarm(seed, kind, scale, fall):
    assert found_in(curve(seed, kind, 3000, scale, fall=fall)) == []


@settings(max_examples=25)
@given(st.integers(0, 2**32), noise, st.integers(300, 900), st.floats(1.5, 50.0))
def test_a_planted_spike_is_found_and_nothing_else(seed, kind, place, height):
    losses = curve(seed, kind, 1000, 0.03)
    losses[place] += height
    judge, found = recent([]), []
    for step, loss in enumerate(losses, start=1):
        if judge.find(step, loss, 1.0):
            found.append(step)
            judge.add(skipped(step))
        else:
            judge.add(train(step, loss))
    assert found == [place + 1]


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(0, 400), st.lists(st.integers(1, 399), max_size=6))
def test_it_decides_the_same_from_any_cut(seed, cut, spikes):
    """A run that goes on reads its records; one that was never stopped has seen them one by one."""
    losses = curve(seed, "normal", 400, 0.05)
    for place in spikes:
        losses[place : place + 2] += 4.0
    unbroken, records, decided = recent([]), [], []
    for step, loss in enumerate(losses, start=1):
        finding = unbroken.find(step, loss, 1.0)
        decided.append(finding)
        records.append(skipped(step) if finding else train(step, loss))
        unbroken.add(records[-1])
    resumed = Recent(STANDARD, BATCH, ONE, records[:cut])
    for step in range(cut + 1, len(losses) + 1):
        assert resumed.find(step, losses[step - 1], 1.0) == decided[step - 1]
        resumed.add(records[step - 1])


def test_a_ramped_batch_keeps_the_borders_of_its_steps():
    from keepwarm.schedule.batch import BatchRamp

    cut = batches(8, BatchRamp(4, 4, 400))
    judge = Recent(STANDARD, cut, (*ONE, Segment(cut.samples(50), ONE[0].mixture)), ())
    assert [judge.begin(step) for step in (1, 50, 51, 90)] == [0, 0, 50, 50]


@pytest.mark.parametrize("kind", ["header", "eval", "event"])
def test_other_records_say_nothing(kind):
    judge = recent(STEADY)
    judge.add({"kind": kind, "event": "decision", "step": 40})
    assert judge.find(41, 7.0, 1.0).text.startswith("the loss 7.000 is")
