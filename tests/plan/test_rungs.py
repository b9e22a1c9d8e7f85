"""Candidates of rungs, and the shipped cookbooks."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.errors import PlanError
from keepwarm.plan.cookbook import ladder_for, load_cookbook, shipped
from keepwarm.plan.load import load_plan
from keepwarm.plan.mixes import searched
from keepwarm.plan.rungs import BufferMix, Naive, Replay, RewarmConverged, candidates

B = (Fraction(5, 100), Fraction(48, 100), Fraction(47, 100))
C = (Fraction(0), Fraction(10, 100), Fraction(90, 100))


def test_candidates_come_in_the_order_written():
    found = candidates(Replay(rung="replay", shares=["5%", "25%"]))
    assert [(each.label, each.share) for each in found] == [
        ("replay 5%", Fraction(1, 20)),
        ("replay 25%", Fraction(1, 4)),
    ]
    assert [each.label for each in candidates(Naive(rung="naive"))] == ["naive"]


def test_products_go_left_to_right():
    rung = RewarmConverged(rung="rewarm-converged", lr=["lr_max/2", "lr_max"], shares=["25%", "30%"])
    assert [(c.parameters["lr"], c.share) for c in candidates(rung)] == [
        ("lr_max/2", Fraction(1, 4)), ("lr_max/2", Fraction(3, 10)), ("lr_max", Fraction(1, 4)), ("lr_max", Fraction(3, 10)),
    ]  # fmt: skip


def test_the_search_lies_between_the_mixes_and_keeps_some_d0():
    rung = BufferMix(rung="buffer-mix", mixes=[[0.05, 0.48, 0.47], [0, 0.1, 0.9]], search=3)
    mixes = [each.mix for each in candidates(rung)]
    assert mixes[:2] == [B, C]
    assert mixes[2:] == [
        (Fraction(5, 100), Fraction(29, 100), Fraction(66, 100)),
        (Fraction(5, 100), Fraction(385, 1000), Fraction(565, 1000)),
        (Fraction(5, 100), Fraction(195, 1000), Fraction(755, 1000)),
    ]


@given(st.integers(0, 7))
def test_every_searched_mix_is_complete(count):
    found = list(searched(B, C, count))
    assert len(found) == len(set(found)) == count
    for mix in found:
        assert sum(mix) == 1 and mix[0] >= Fraction(5, 100) and min(mix) >= 0


def test_the_shipped_cookbooks_load_and_begin_as_the_cookbook_says():
    assert shipped() == ["aurora-v1", "aurora-v1-later", "legacy-agpt-7b"]
    first = {
        name: [rungs[0].rung for rungs in (c.weak, c.strong, c.last)]
        for name in shipped()
        for c in [load_cookbook(name)]
    }
    assert first == {
        "aurora-v1": ["replay", "replay-previous-mix", "balance"],
        "aurora-v1-later": ["naive", "naive", "balance"],
        "legacy-agpt-7b": ["legacy-replay-rewarm"] * 3,
    }
    order = [rung.rung for rung in load_cookbook("aurora-v1").strong]
    assert order == ["replay-previous-mix", "buffer-mix", "decay-then-introduce", "rewarm-converged"]
    order = [rung.rung for rung in load_cookbook("aurora-v1").weak]
    assert order == ["replay", "replay-rewarm", "rewarm-converged", "decay-then-introduce"]


def test_an_unknown_cookbook_names_those_there_are():
    with pytest.raises(PlanError, match="aurora-v1, aurora-v1-later, legacy-agpt-7b"):
        load_cookbook("aurora-v2")


def test_a_cookbook_file_is_checked_like_a_plan(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "name: own\nweak: [{rung: replay, shares: [200%]}]\nstrong: [{rung: naive}]\nlast: [{rung: naive}]\n"
    )
    with pytest.raises(PlanError, match=r"own.yaml:2:23  weak.0.shares: 200% is not between 0 and 1"):
        load_cookbook(str(path))


def test_which_ladder_a_stage_takes(workplace, edit_plan):
    edit_plan(
        (", ladder: [{rung: replay, shares: [5%, 25%]}]", ""),
        (", ladder: [{rung: buffer-mix, mixes: [[0.25, 0.50, 0.25]]}]", ""),
    )
    plan = load_plan("plan.yaml")
    assert [ladder_for(plan, 0, grade)[0] for grade in ("none", "weak", "strong", "language")] == [
        "weak",
        "weak",
        "strong",
        "strong",
    ]
    assert ladder_for(plan, 1, "weak")[0] == "own"
    assert ladder_for(plan, 2, "weak")[0] == "last"
