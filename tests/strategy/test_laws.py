"""Laws fitted to measurements."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.strategy.laws import ForgettingLaw, forgetting_law


def test_it_predicts_a_quarter_from_0_and_5_percent():
    """The prototype's held-out seed: forgetting 1.503 at 0, .661 at 5 %; .335 at 25 %, .172 at 50 %."""
    law = forgetting_law([0, 0.05], [1.503, 0.661])
    assert law.at(0.25) == pytest.approx(0.335, abs=0.02)
    assert law.at(0.5) == pytest.approx(0.172, abs=0.06)


@given(st.floats(0.05, 4), st.floats(1, 5000), st.floats(0.01, 0.9))
def test_it_finds_the_law_that_made_the_points(f0, b, share):
    made = ForgettingLaw(f0, b)
    found = forgetting_law([0, 0.01, 0.05, 0.25], [made.at(p) for p in (0, 0.01, 0.05, 0.25)])
    assert found.at(share) == pytest.approx(made.at(share), rel=0.02)


def test_the_share_for_a_budget_is_where_the_law_meets_it():
    law = ForgettingLaw(2.0, 60.0)
    assert law.at(law.share_for(0.5)) == pytest.approx(0.5)
    assert law.share_for(2.5) == 0.0
    assert law.share_for(0.0) == math.inf


@pytest.mark.parametrize(
    ("shares", "forgetting"), [([0.05, 0.05], [0.5, 0.4]), ([0, 0.05], [0.4, 0.5]), ([0, 0.05], [0.4, -0.1])]
)
def test_points_that_say_nothing_about_replay_give_no_law(shares, forgetting):
    assert forgetting_law(shares, forgetting) is None
