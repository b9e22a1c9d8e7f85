"""When held-out losses are measured, and at what cost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from keepwarm.attempt.timing import COMPUTE_SHARE, FORWARD_COST, affordable, planned_steps


def test_planned_steps_are_dense_at_the_start_then_every_three_percent():
    steps = planned_steps(1000)
    assert steps[:5] == (10, 25, 50, 80, 110)
    assert steps[-1] == 980
    assert len(steps) == 34


def test_planned_steps_of_a_tiny_stage_never_include_its_end():
    assert planned_steps(1) == ()
    assert planned_steps(3) == (1, 2)


@given(
    st.integers(1, 5000), st.integers(1, 64), st.lists(st.integers(8, 300), min_size=1, max_size=5), st.integers(8, 256)
)
def test_a_stage_spends_at_most_its_share_on_evaluation(steps, sequences, counts, sequence_length):
    windows = {f"d{i}": count for i, count in enumerate(counts)}
    watched = list(windows)[:2]
    points, size = affordable(steps, steps * sequences * sequence_length, sequence_length, windows, watched)
    at_ends = sum(windows.values()) * sequence_length
    on_the_way = len(points) * sum(size.values()) * sequence_length
    spent = FORWARD_COST * (at_ends + on_the_way)
    assert points == () or spent <= COMPUTE_SHARE * steps * sequences * sequence_length + 1e-6
    assert set(points) <= set(planned_steps(steps))
    assert all(size[name] <= windows[name] for name in size)


def test_the_first_points_survive_thinning():
    points, _ = affordable(150, 150 * 2048, 128, {"a": 90, "b": 90, "c": 90}, ["a", "b", "c"])
    assert points[0] == planned_steps(150)[0]
    assert points[-1] == planned_steps(150)[-1]
