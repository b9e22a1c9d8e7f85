"""The order that earlier outcomes suggest: chances and costs by hand, and that no order is expected to cost less."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.plan.rungs import Candidate, Naive, Replay, ReplayRewarm, candidates
from keepwarm.strategy.ladder import LOWEST, Begin
from keepwarm.strategy.shift import GRADES, MEASURES, Shift
from keepwarm.strategy.suggest import FAR, Ranked, Seen, by_promise, expected_cost, similarity, suggest

HERE = Shift("strong", True, 3.0, 1.5, 0.2, 0.01, 0.5, 0.2, 0.4, 0.3)
NAIVE = candidates(Naive(rung="naive"))
ONE, FIVE, QUARTER = candidates(Replay(rung="replay", shares=("1%", "5%", "25%")))
LADDER = [*NAIVE, ONE, FIVE, QUARTER]


def seen(candidate, outcome, *, shift=HERE, tokens=100, run="a", stage="stage2"):
    return Seen(run, stage, shift, candidate, outcome, outcome == "recovered", tokens, 100, tokens < 100)


def found(*outcomes, ladder=LADDER):
    return suggest(HERE, ladder, LOWEST, outcomes)


def ranked(suggestion, label):
    return next(each for each in suggestion.order if each.candidate.label == label)


def labels(suggestion):
    return [each.candidate.label for each in suggestion.order]


def test_without_evidence_the_order_is_as_written():
    nothing = found()
    assert labels(nothing) == ["naive", "replay 1%", "replay 5%", "replay 25%"]
    assert [each.chance for each in nothing.order] == pytest.approx([1 / 2, 1 / 3, 1 / 4, 1 / 5])
    assert nothing.expected == pytest.approx(1 + 1 / 2 + 1 / 2 * 2 / 3 + 1 / 2 * 2 / 3 * 3 / 4)
    assert nothing.expected == nothing.expected_as_written and nothing.counted == 0


def test_lower_shares_than_the_shift_begins_with_wait_without_evidence():
    assert labels(suggest(HERE, LADDER, Begin(Fraction(5, 100)), ())) == [
        "naive",
        "replay 5%",
        "replay 25%",
        "replay 1%",
    ]


def test_an_accepted_candidate_comes_first():
    better = found(seen(QUARTER, "recovered"), seen(FIVE, "not-recovering"))
    assert labels(better) == ["replay 25%", "naive", "replay 1%", "replay 5%"]
    assert ranked(better, "replay 25%").chance == pytest.approx((2 / 5 + 1) / 3)
    assert better.expected < better.expected_as_written


def test_a_failure_speaks_of_lower_shares_and_of_no_replay():
    known = found(seen(FIVE, "not-recovering"))
    for label, place in (("naive", 0), ("replay 1%", 1), ("replay 5%", 2)):
        assert ranked(known, label).chance == pytest.approx((2 / (place + 2)) / 3)
    assert ranked(known, "replay 25%").chance == pytest.approx(1 / 5)
    assert ranked(known, "replay 25%").weight == 0


def test_under_adapting_speaks_of_higher_shares():
    known = found(seen(FIVE, "under-adapting"))
    assert ranked(known, "replay 25%").weight == 1 and ranked(known, "replay 1%").weight == 0


def test_a_stage_speaks_of_a_candidate_once_and_its_own_outcome_is_heard():
    known = found(seen(FIVE, "not-recovering"), seen(QUARTER, "not-recovering"), seen(ONE, "recovered"))
    assert ranked(known, "replay 1%").weight == 1 and ranked(known, "replay 1%").accepted == 1
    assert ranked(known, "naive").weight == 1
    again = found(seen(FIVE, "not-recovering"), seen(FIVE, "not-recovering", run="b"))
    assert ranked(again, "naive").weight == 2


def test_another_rung_says_nothing_of_a_share():
    (warmed, *_) = candidates(ReplayRewarm(rung="replay-rewarm"))
    assert ranked(found(seen(warmed, "not-recovering")), "replay 1%").weight == 0


def test_what_was_stopped_early_costs_less():
    known = found(seen(FIVE, "not-recovering", tokens=40))
    assert ranked(known, "replay 5%").cost == pytest.approx((2 + 0.4) / 3)
    assert ranked(known, "replay 1%").cost == 1  # what follows from another outcome was not paid for


def test_what_was_accepted_elsewhere_is_tried_too():
    known = found(seen(QUARTER, "recovered"), ladder=[*NAIVE, ONE, FIVE])
    assert ranked(known, "replay 25%").place is None and len(known.order) == 4
    assert known.expected < known.expected_as_written  # of the same four
    rejected = found(seen(QUARTER, "not-recovering"), ladder=[*NAIVE, ONE, FIVE])
    assert "replay 25%" not in labels(rejected)


def test_what_cannot_be_trained_is_not_suggested():
    merge = Candidate("merge", "merge", {})
    assert "merge" not in labels(found(seen(merge, "recovered")))


def test_outcomes_at_another_shift_say_nothing():
    far = replace(HERE, new_bits_per_byte=12.0, js_unigram=0.9, js_bigram=0.95, new_tokens_per_byte=0.9)
    known = found(seen(QUARTER, "recovered", shift=far))
    assert known.counted == 0 and known.evidence[0][1] < FAR
    assert labels(known) == labels(found())


def test_a_grade_apart_in_one_number_is_a_standard_deviation():
    low, _, high = MEASURES[0].borders  # two grades apart
    one, other = Shift("weak", True, low, 1.0), Shift("language", True, high, 1.0)
    assert similarity(one, other) == pytest.approx(math.exp(-4 / 2))
    assert similarity(one, Shift("strong", True, math.sqrt(low * high), 1.0)) == pytest.approx(math.exp(-1 / 2))
    assert similarity(Shift("none", False), Shift("strong", False)) == pytest.approx(math.exp(-2))


SHIFTS = st.builds(
    Shift,
    st.sampled_from(GRADES),
    st.just(True),
    st.floats(0.5, 9),
    st.floats(0.5, 9),
    st.floats(0, 1),
    st.floats(0, 1),
)


@given(SHIFTS, SHIFTS)
def test_similarity_is_symmetric_and_at_most_one(one, other):
    assert similarity(one, other) == pytest.approx(similarity(other, one))
    assert 0 <= similarity(one, other) <= 1 and similarity(one, one) == 1


@given(st.lists(st.tuples(st.floats(0.01, 0.99), st.floats(0.05, 2)), min_size=1, max_size=5))
def test_no_order_is_expected_to_cost_less(pairs):
    options = [Ranked(ONE, place, chance, cost) for place, (chance, cost) in enumerate(pairs)]
    least = min(expected_cost(order) for order in permutations(options))
    assert expected_cost(by_promise(options)) == pytest.approx(least)


@given(st.lists(st.sampled_from([seen(c, o) for c in LADDER for o in ("recovered", "not-recovering")]), max_size=8))
def test_chances_are_chances_and_nothing_is_lost(outcomes):
    known = found(*outcomes)
    assert sorted(labels(known)) == sorted(labels(found()))
    assert all(0 < each.chance < 1 and each.accepted <= each.weight for each in known.order)
    assert known.expected <= known.expected_as_written + 1e-9


@given(st.lists(st.sampled_from([seen(c, o) for c in LADDER for o in ("recovered", "not-recovering")]), max_size=8))
def test_what_is_suggested_is_never_expected_to_cost_more(outcomes):
    known = found(*outcomes, ladder=[*NAIVE, ONE])
    assert known.expected <= known.expected_as_written + 1e-9
