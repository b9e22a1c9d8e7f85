"""Human quantities are exact."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.units import format_count, format_share, parse_count, parse_lr, parse_ratio, parse_share


@pytest.mark.parametrize(
    ("text", "count"),
    [("22B", 22 * 10**9), ("1.5T", 1_500_000_000_000), ("300k", 300_000), ("0.1k", 100), ("2_000", 2000), (12, 12), ("12 M", 12_000_000)],
)  # fmt: skip
def test_counts(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["1.5", "0.0001k", "-3", -3, "22e9", "", "k", "1 2", True, None])
def test_what_is_not_a_whole_count_is_refused(text):
    with pytest.raises(ValueError, match="not|negative"):
        parse_count(text)


@given(st.integers(0, 10**15))
def test_a_count_survives_its_own_text(count):
    assert parse_count(str(count)) == count


@pytest.mark.parametrize(
    ("text", "share"), [("5%", "1/20"), (0.05, "1/20"), ("0.1%", "1/1000"), (1, "1"), ("33.3%", "333/1000")]
)
def test_shares_are_what_their_text_says(text, share):
    assert parse_share(text) == Fraction(share)


@pytest.mark.parametrize("text", ["125%", -0.1, "x", "nan", float("inf"), True, "1/0"])
def test_what_is_not_a_share_is_refused(text):
    with pytest.raises(ValueError):
        parse_share(text)


def test_a_ratio_may_exceed_one():
    assert parse_ratio("250%") == Fraction(5, 2)


@pytest.mark.parametrize(
    ("text", "rate"), [(3e-4, 3e-4), ("3e-4", 3e-4), ("lr_max", 2.0), ("lr_max/100", 0.02), ("2 lr_max", 4.0), ("0.5*lr_max/5", 0.2)]
)  # fmt: skip
def test_rates(text, rate):
    assert parse_lr(text, 2.0) == pytest.approx(rate, rel=1e-15)


@pytest.mark.parametrize("text", [0, -1e-4, "lr_min", "lr_max/0", "", float("nan"), float("inf")])
def test_what_is_not_a_positive_rate_is_refused(text):
    with pytest.raises(ValueError, match="learning rate"):
        parse_lr(text, 2.0)


def test_formats():
    assert [format_count(n) for n in (0, 999, 301_056, 22 * 10**9)] == ["0", "999", "301k", "22B"]
    assert [format_share(Fraction(1, 20)), format_share(0.3333)] == ["5%", "33.3%"]
