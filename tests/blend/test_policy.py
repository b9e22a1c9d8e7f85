"""How B is divided, and which documents come first."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.blend.buffer import fill, load_buffer, provenance
from keepwarm.blend.policy import highest_first, quotas, random_order
from keepwarm.errors import PlanError

STAGES = [("s2", 2000), ("s3", 1500), ("s4", 500)]


def test_proportional_and_highest_loss_divide_by_tokens_fed() -> None:
    for policy in ("proportional", "highest-loss"):
        assert quotas(policy, STAGES, 800) == [400, 300, 100]


def test_newest_heavy_counts_each_stage_twice_the_one_before() -> None:
    assert quotas("newest-heavy", STAGES, 700) == [200, 300, 200]


@given(
    st.sampled_from(["proportional", "newest-heavy", "highest-loss"]),
    st.lists(st.integers(1000, 10**6), min_size=2, max_size=6),
    st.integers(10**7, 10**9),
)
def test_a_later_stage_never_gives_an_earlier_one_more(policy: str, tokens: list[int], budget: int) -> None:
    stages = [(f"s{k}", each) for k, each in enumerate(tokens)]
    before, after = quotas(policy, stages[:-1], budget), quotas(policy, stages, budget)
    assert all(now <= then for now, then in zip(after, before, strict=False))
    assert budget - len(tokens) < sum(after) <= budget
    if policy == "newest-heavy":
        rates = [Fraction(quota, each) for quota, each in zip(after, tokens, strict=True)]
        assert all(abs(b / a - 2) < Fraction(1, 4) for a, b in pairwise(rates) if a * 10**3 > 1)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30))
def test_highest_first_falls_as_scores_rise(scores: list[float]) -> None:
    order = highest_first(np.array(scores))
    ranked = sorted(range(len(scores)), key=lambda k: -scores[k])
    assert [scores[k] for k in np.argsort(order, kind="stable")] == [scores[k] for k in ranked]
    assert [int(a) == int(b) for a, b in pairwise(order)] == [a == b for a, b in pairwise(scores)]


def test_the_random_order_is_pinned() -> None:
    """What B holds follows from it: it must never change."""
    first = np.argsort(random_order(np.arange(20), 1, "0123456789abcdef"))[:6]
    assert first.tolist() == PINNED


PINNED = [3, 19, 5, 13, 8, 12]


def documents(count: int) -> list[list[int]]:
    return [[*range(10 * k + 1, 10 * k + 9), 0] for k in range(count)]


def filled(source, folder, policy, previous=None, stage="s2", scores=None, budget=100):
    return fill(
        previous, stage, f"corpus of {stage}", [(source, 0, 10**4)], budget, 3, 4, folder, 0, 1000, policy, scores
    )


def test_highest_loss_keeps_the_documents_with_the_highest_scores_through_all_versions(make_source, tmp_path) -> None:
    a, b = make_source("a", documents(60)), make_source("b", documents(60))
    scores = np.random.default_rng(0).normal(size=60)
    first = filled(a, tmp_path / "B", "highest-loss", scores=[scores])
    held = provenance(first.entries[0])["document"].tolist()
    hardest = np.argsort(-scores).tolist()
    assert held == hardest[: len(held)] and len(held) == 11
    second = filled(b, tmp_path / "B", "highest-loss", first, "s3", [-scores])
    assert provenance(second.entries[0])["document"].tolist() == held[:6]
    assert provenance(second.entries[1])["document"].tolist() == np.argsort(scores).tolist()[:6]
    assert load_buffer(second.folder).policy == "highest-loss"


def test_newest_heavy_through_two_versions(make_source, tmp_path) -> None:
    a, b = make_source("a", documents(60)), make_source("b", documents(60))
    first = filled(a, tmp_path / "B", "newest-heavy", budget=90)
    second = filled(b, tmp_path / "B", "newest-heavy", first, "s3", budget=90)
    assert [entry.tokens for entry in second.entries] == pytest.approx([30, 60], abs=1)


def test_another_policy_than_so_far_is_refused(make_source, tmp_path) -> None:
    a, b = make_source("a", documents(60)), make_source("b", documents(60))
    first = filled(a, tmp_path / "B", "proportional")
    with pytest.raises(PlanError, match="buffer.policy is newest-heavy, and B was filled by proportional up to"):
        filled(b, tmp_path / "B", "newest-heavy", first, "s3")
    assert [path.name for path in (tmp_path / "B").iterdir()] == ["v1"]
