"""Which candidates are passed over."""

from __future__ import annotations

from fractions import Fraction

from keepwarm.plan.rungs import Candidate
from keepwarm.strategy.ladder import Tried, skip_reason


def replay(percent, rung="replay"):
    return Candidate(rung, f"{rung} {percent}%", {"share": Fraction(percent, 100)})


def test_more_replay_is_tried_while_old_data_is_forgotten():
    assert skip_reason(replay(10), [Tried(replay(5), "not-recovering")]) is None


def test_more_replay_is_passed_over_once_a_smaller_share_under_adapts():
    reason = skip_reason(replay(10), [Tried(replay(5), "under-adapting")])
    assert reason == "replay 5% under-adapted already; more replay would adapt less"


def test_another_rung_is_not_passed_over_for_it():
    assert skip_reason(replay(10, "replay-previous-mix"), [Tried(replay(5), "under-adapting")]) is None


def test_a_rung_that_is_not_built_yet_says_so():
    assert skip_reason(Candidate("merge", "merge", {}), []) == "the rung merge is not built yet in this version"
