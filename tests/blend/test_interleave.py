from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepwarm.blend.interleave import Interleave

PREFIX = 4096
FAMILIES: dict[str, list[int]] = {
    "one": [7],
    "two equal": [1, 1],
    "thirds": [1, 1, 1],
    "replay 1%": [1, 99],
    "mix B": [5, 48, 47],
    "hundred equal": [1] * 100,
    "dominant and a tail": [900, *[1] * 99],
    "zipf": [10**9 // rank for rank in range(1, 301)],
    "geometric": [3**k for k in range(20)],
    "a thousand-millionth": [1, 10**9],
    "primes": [2, 3, 5, 7, 11, 13, 17, 19, 23, 29],
}
weights = st.one_of(
    st.lists(st.integers(1, 100), min_size=1, max_size=40),
    st.lists(st.integers(1, 2**28), min_size=1, max_size=12),
    st.lists(st.integers(0, 28).map(lambda k: 2**k), min_size=1, max_size=12),
)


def brute(order: list[int], n: int) -> tuple[list[int], list[int]]:
    """Source and local number of samples 0..n-1, by counting leaf by leaf with python's own integers."""
    tree = Interleave(order)
    counts = [tree.counts(k) for k in range(n + 1)]
    rises = [[b - a for a, b in zip(now, then, strict=True)] for now, then in pairwise(counts)]
    assert all(sorted(rise) == [0] * (len(order) - 1) + [1] for rise in rises)
    sources = [rise.index(1) for rise in rises]
    return sources, [now[source] for now, source in zip(counts, sources, strict=False)]


def deviation(tree: Interleave, n: int) -> float:
    """The most that any source strays from its share at any prefix up to n."""
    source, _ = tree.locate(np.arange(n, dtype=np.uint64))
    total, prefix = sum(tree.weights), np.arange(1, n + 1)
    return max(
        float(np.abs(np.cumsum(source == k) - prefix * (weight / total)).max()) for k, weight in enumerate(tree.weights)
    )


@settings(max_examples=60, deadline=None)
@given(weights)
def test_locate_agrees_with_the_exact_counts_at_every_prefix(order: list[int]) -> None:
    sources, numbers = brute(order, 200)
    located = Interleave(order).locate(np.arange(200, dtype=np.uint64))
    assert (located[0].tolist(), located[1].tolist()) == (sources, numbers)


@settings(deadline=None)
@given(weights, st.integers(0, 2**48))
def test_counts_sum_to_n_and_stay_within_the_bound_far_out(order: list[int], n: int) -> None:
    tree = Interleave(order)
    counts = tree.counts(n)
    assert sum(counts) == n and min(counts) >= 0
    slack = Fraction(n * len(order), 2**65)
    for count, weight in zip(counts, order, strict=True):
        assert abs(count - Fraction(n * weight, sum(order))) <= tree.bound + slack
    assert tree.bound <= Fraction(7, 4)


@settings(deadline=None)
@given(weights, st.integers(0, 2**48 - 2))
def test_any_sample_in_isolation_is_the_step_between_two_counts(order: list[int], n: int) -> None:
    tree = Interleave(order)
    (source,), (number,) = tree.locate(np.array([n], dtype=np.uint64))
    before, after = tree.counts(n), tree.counts(n + 1)
    assert before[source] == number and after[source] == number + 1


@pytest.mark.parametrize("name", FAMILIES)
def test_named_families_stay_within_one_and_a_half(name: str) -> None:
    tree = Interleave(FAMILIES[name])
    assert deviation(tree, PREFIX) <= min(1.5, float(tree.bound) + 1e-9)


@settings(max_examples=100, deadline=None)
@given(weights)
def test_random_families_stay_within_their_bound(order: list[int]) -> None:
    tree = Interleave(order)
    assert deviation(tree, PREFIX) <= min(1.5, float(tree.bound) + 1e-9)


def test_a_million_prefixes_of_a_mix() -> None:
    assert deviation(Interleave([5, 48, 47, 1, 2, 3]), 2**20) <= 1.1


@pytest.mark.parametrize("name", FAMILIES)
def test_order_of_asking_does_not_matter(name: str) -> None:
    tree = Interleave(FAMILIES[name])
    n = np.arange(1000, dtype=np.uint64)
    shuffled = np.random.default_rng(0).permutation(n)
    source, number = tree.locate(n)
    again = tree.locate(shuffled)
    assert np.array_equal(again[0], source[shuffled]) and np.array_equal(again[1], number[shuffled])


def test_the_order_is_pinned() -> None:
    """The order of data is part of every record: it must never change."""
    source, number = Interleave([5, 48, 47]).locate(np.arange(24, dtype=np.uint64))
    assert "".join(map(str, source.tolist())) == "212121212101212121212121"
    assert number[-4:].tolist() == [9, 10, 10, 11]


def test_one_in_a_thousand_million_comes_once_in_a_thousand_million() -> None:
    tree = Interleave([1, 10**9 - 1])
    assert tree.counts(10**9) == (1, 10**9 - 1)
    assert tree.counts(10**12) == (1000, 10**12 - 1000)


def test_the_bound_of_two_and_of_many_equal_sources() -> None:
    assert Interleave([1]).bound == 0
    assert Interleave([1, 9]).bound == Fraction(1, 2)
    assert Interleave([1] * 8).bound == Fraction(7, 8)  # 1/2 * (1 + 1/2 + 1/4)


@pytest.mark.parametrize("bad", [[], [0, 1], [-1, 2]])
def test_weights_that_are_none_or_not_positive_are_refused(bad: list[int]) -> None:
    with pytest.raises(ValueError, match="positive integers"):
        Interleave(bad)


def test_a_share_that_64_bits_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="below 2\\^-64"):
        Interleave([1, 2**70])
