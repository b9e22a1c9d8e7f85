"""The control law on a synthetic plant: forgetting relaxes to a law of the share, grows like log t, and is noisy."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepwarm.attempt.timing import planned_steps
from keepwarm.strategy.thermostat import may_still_raise, stand_of, steered
from keepwarm.strategy.watch import watch

STEPS, WINDOWS = 300, 48


def header(tolerance: float, rule: dict, old: tuple[str, ...] = ("d0",), seed: int = 0) -> dict:
    reference = np.random.default_rng(seed).normal(3, 0.5, WINDOWS)
    return {
        "kind": "header", "old": list(old), "new": "d1", "steps": STEPS, "switch_step": 0, "ends": "peak",
        "steering": {"old": "previous", "new": "new", "stairs": []} | rule,
        "references": {name: {"windows": reference.tolist()} for name in old},
        "tolerance": {name: {"nats": tolerance} for name in old}, "before": {}, "step_tokens": 1,
    }  # fmt: skip


def thermostat(start: str, least: str = "1/100", most: str = "1/2") -> dict:
    return {"by": "thermostat", "start": start, "least": least, "most": most}


def evaluation(first: dict, step: int, forgotten: dict[str, float], spread: np.ndarray | None = None) -> dict:
    windows = {
        name: (np.array(first["references"][name]["windows"]) + value + (0 if spread is None else spread)).tolist()
        for name, value in forgotten.items()
    }
    loss = {name: float(np.mean(values)) for name, values in windows.items()}
    return {"kind": "eval", "full": False, "step": step, "tokens": step, "loss": loss, "windows": windows}


def run(first: dict, *, f0: float, b: float, alpha: float, noise: float = 0.02, seed: int = 0):
    """The plant under the law: its forgetting at the end and the shares it was fed, [(from step, share)]."""
    rng, records = np.random.default_rng(seed), [first]
    share, forgotten = float(Fraction(first["steering"]["start"])), 0.0
    path, points = [(0, share)], set(planned_steps(STEPS))
    for step in range(1, STEPS + 1):
        grown = 0.75 + 0.25 * math.log1p(20 * step / STEPS) / math.log1p(20)
        forgotten += (f0 * (1 + b * share) ** -alpha * grown - forgotten) * (1 - math.exp(-1 / (0.03 * STEPS)))
        if step in points:
            spread = rng.normal(0, noise) + rng.normal(0, 7 * noise, WINDOWS)
            records.append(evaluation(first, step, {"d0": forgotten}, spread))
            for event in steered(records):
                assert event["event"] == "mix" and Fraction(event["shares"]["new"]) == 1 - Fraction(
                    event["shares"]["previous"]
                )
                records.append({"kind": "event", "step": step, "tokens": step, **event})
                share = float(Fraction(event["shares"]["previous"]))
                path.append((step, share))
    return forgotten, path


def reversals(path: list[tuple[int, float]]) -> int:
    moves = [after - before for (_, before), (_, after) in pairwise(path)]
    return sum(one * other < 0 for one, other in pairwise(moves))


@pytest.mark.parametrize("start", ["1/100", "1/20", "2/5"])
@pytest.mark.parametrize(("alpha", "b"), [(0.5, 100), (0.35, 200), (0.8, 60), (1, 40)])
def test_it_comes_near_the_least_share_that_holds_from_both_sides(start, alpha, b):
    """Whatever the true law is: the forgetting ends within tolerance, and not far within."""
    tolerance, f0 = 0.6, 2.0
    best = ((f0 / tolerance) ** (1 / alpha) - 1) / b
    for seed in range(3):
        end, path = run(header(tolerance, thermostat(start)), f0=f0, b=b, alpha=alpha, seed=seed)
        assert 0.7 * tolerance <= end <= tolerance
        assert best <= path[-1][1] <= 2 * best


@settings(max_examples=40)
@given(
    st.floats(0.2, 3), st.floats(20, 300), st.floats(0.3, 1), st.floats(0, 0.05), st.floats(0.05, 2),
    st.sampled_from(["1/50", "1/10", "3/10"]), st.integers(0, 10),
)  # fmt: skip
def test_shares_stay_inside_the_bounds_and_do_not_oscillate(f0, b, alpha, noise, tolerance, start, seed):
    first = header(tolerance, thermostat(start, "1/50", "3/10"))
    _, path = run(first, f0=f0, b=b, alpha=alpha, noise=noise, seed=seed)
    assert all(0.02 <= share <= 0.3 for _, share in path)
    assert all(1 / 2.05 <= after / before <= 2.05 for (_, before), (_, after) in pairwise(path))  # two digits
    assert all(after - before >= 0.05 * STEPS for (before, _), (after, _) in pairwise(path))
    assert len(path) <= 12 and reversals(path) <= 5
    late = [share for step, share in path if step >= STEPS / 2]
    assert max(late, default=1) <= 2 * min(late, default=1) or reversals(path) == 0


def test_without_noise_it_settles_and_stays():
    first = header(0.6, thermostat("1/20"))
    _, path = run(first, f0=2.0, b=100, alpha=0.5, noise=0.0)
    late = [share for step, share in path if step > STEPS / 3]
    assert reversals(path) <= 1 and max(late) <= 1.25 * min(late)


def test_nothing_is_said_before_there_is_evidence():
    first = header(0.1, thermostat("1/20"))
    records = [first]
    for step in (3, 8, 15, 24, 33):  # settled from step 15 on: three evaluations
        records.append(evaluation(first, step, {"d0": 0.9}))
        assert steered(records) == () and stand_of(records).outlooks == ()
    records.append(evaluation(first, 42, {"d0": 0.9}))
    (event,) = steered(records)
    assert event["shares"] == {"previous": "1/10", "new": "9/10"}
    assert event["text"] == (
        "previous 5% -> 10%: d0 has forgotten +0.900 nats, forecast at the end +0.900 +- 0.000, tolerance 0.100"
    )


def test_after_a_change_it_waits_until_the_change_has_shown():
    first = header(0.1, thermostat("1/20"))
    records = [first, *(evaluation(first, step, {"d0": 0.9}) for step in (15, 24, 33, 42))]
    records.append({"kind": "event", "step": 42, "tokens": 42, **steered(records)[0]})
    for step in (51, 60):
        records.append(evaluation(first, step, {"d0": 0.9}))
        assert steered(records) == ()
    records.append(evaluation(first, 69, {"d0": 0.9}))
    assert steered(records)[0]["shares"]["previous"] == "1/5"


def test_the_worst_corpus_decides():
    first = header(0.5, thermostat("1/20"), old=("d0", "d1"))
    for forgotten, expected in (
        ({"d0": 0.1, "d1": 0.9}, "1/10"),
        ({"d0": 0.1, "d1": 0.4}, None),
        ({"d0": 0.1, "d1": 0.2}, "1/40"),
    ):
        spread = np.linspace(-0.5, 0.5, WINDOWS)  # a noise of .042
        records = [first, *(evaluation(first, step, forgotten, spread) for step in (15, 24, 33, 42))]
        found = steered(records)
        assert (found[0]["shares"]["previous"] if found else None) == expected


def test_nothing_falls_in_the_last_fifth_and_nothing_changes_at_the_very_end():
    first = header(0.5, thermostat("1/20"))
    for forgotten, steps, changes in ((0.1, (210, 220, 230, 239), True), (0.1, (210, 220, 230, 250), False),
                                      (0.9, (250, 260, 270, 280), True), (0.9, (260, 270, 280, 290), False)):  # fmt: skip
        records = [first, *(evaluation(first, step, {"d0": forgotten}) for step in steps)]
        assert bool(steered(records)) == changes


def test_an_attempt_is_stopped_only_once_the_most_was_given_and_had_time_to_show():
    first = header(0.1, thermostat("2/5"))
    records = [first, *(evaluation(first, step, {"d0": 0.9}) for step in (15, 24, 33, 42, 51, 60, 69, 78, 87, 96))]
    assert may_still_raise(records)
    assert [event["event"] for event in watch(records)] == ["decision", "mix"]
    records.append({"kind": "event", "step": 96, "tokens": 96, **watch(records)[1]})
    records.append(evaluation(first, 105, {"d0": 0.9}))
    assert may_still_raise(records) and [event["event"] for event in watch(records)] == ["decision"]
    records += [evaluation(first, step, {"d0": 0.9}) for step in (114, 123, 132)]
    assert not may_still_raise(records)
    assert not may_still_raise([first | {"steering": None}])


def test_the_new_share_rises_when_the_forecast_behind_it_holds_and_at_the_latest_after_twice_its_tokens():
    stairs = ["9/10", "3/4", "1/2", "1/5"]
    first = header(
        0.3, {"by": "incremental", "old": "d0", "start": "9/10", "least": "1/5", "most": "9/10", "stairs": stairs}
    )
    points = [*range(9, STEPS, 9)]

    def climb(forgotten: float) -> list[tuple[int, str]]:
        records, found = [first], []
        for step in points:
            records.append(evaluation(first, step, {"d0": forgotten}))
            for event in steered(records):
                records.append({"kind": "event", "step": step, "tokens": step, **event})
                found.append((step, event["shares"]["d0"]))
        return found

    equal = STEPS / 4
    quick, forced = climb(0.02), climb(0.6)
    assert [share for _, share in quick] == stairs[1:]
    held = [b - a for a, b in pairwise([0, *(step for step, _ in quick)])]
    assert all(equal / 2 <= each < equal / 2 + 18 for each in held)
    assert [step for step, _ in forced] == [153] and 2 * equal <= 153 < 2 * equal + 9


def test_a_loss_that_is_not_finite_says_nothing():
    first = header(0.1, thermostat("1/20"))
    records = [first, *(evaluation(first, step, {"d0": 0.9}) for step in (15, 24, 33))]
    broken = evaluation(first, 42, {"d0": 0.9})
    broken["windows"]["d0"][3] = None
    assert steered([*records, broken]) == ()
