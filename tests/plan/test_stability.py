"""`stability:` in a plan: its defaults, and what is refused."""

from __future__ import annotations

from fractions import Fraction

import pytest

from keepwarm.errors import PlanError
from keepwarm.plan.load import load_plan, plan_yaml
from keepwarm.plan.stability import StabilitySpec


@pytest.fixture
def load(tmp_path, plan_text):
    def read(stability: str):
        path = tmp_path / "plan.yaml"
        path.write_text(plan_text + f"stability: {stability}\n")
        return load_plan(path)

    return read


def test_a_plan_that_says_nothing_skips(tmp_path, plan_text):
    (tmp_path / "plan.yaml").write_text(plan_text)
    found = load_plan(tmp_path / "plan.yaml").stability
    assert found == StabilitySpec()
    assert (found.non_finite, found.spike, found.threshold, found.window_steps) == ("skip", "skip", 10.0, 64)
    assert (found.rewind_steps, found.most_skipped, found.most_rewinds) == (16, Fraction(1, 20), 3)


def test_all_of_it_is_read_and_written_back(load, tmp_path):
    plan = load(
        "{non_finite: rewind, spike: skip, threshold: 6, window_steps: 100, rewind_steps: 200, most_skipped: 1%}"
    )
    assert (plan.stability.rewind_steps, plan.stability.most_skipped) == (200, Fraction(1, 100))
    (tmp_path / "again.yaml").write_text(plan_yaml(plan))
    assert load_plan(tmp_path / "again.yaml") == plan


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{non_finite: off}", "stability.non_finite: input should be 'skip', 'rewind' or 'stop'"),
        ("{spike: ignore}", "stability.spike: input should be 'off', 'skip', 'rewind' or 'stop'"),
        ("{threshold: 2}", "stability.threshold: input should be greater than or equal to 3"),
        ("{threshold: .inf}", "stability.threshold: input should be a finite number"),
        ("{window_steps: 31}", "stability.window_steps: input should be greater than or equal to 32"),
        ("{spike: rewind, rewind_steps: 0}", "stability.rewind_steps: input should be greater than or equal to 1"),
        ("{most_skipped: 101%}", "stability.most_skipped: 101% is not between 0 and 1"),
        ("{spike: rewind, most_rewinds: -1}", "stability.most_rewinds: input should be greater than or equal to 0"),
        ("{treshold: 6}", "stability.treshold: unknown key, did you mean 'threshold'?"),
        ("{spike: off, threshold: 6}", "stability: threshold is given, and spike is off: it would not be used"),
        ("{spike: off, window_steps: 99}", "stability: window_steps is given, and spike is off: it would not be used"),
        ("{rewind_steps: 99}", "stability: rewind_steps is given, and nothing is answered by a rewind"),
        ("{most_rewinds: 9}", "stability: most_rewinds is given, and nothing is answered by a rewind"),
        ("{non_finite: stop, spike: off, most_skipped: 1%}", "most_skipped is given, and nothing is answered by skip"),
    ],
)
def test_refusals(load, written, said):
    with pytest.raises(PlanError) as refused:
        load(written)
    assert said in refused.value.what
