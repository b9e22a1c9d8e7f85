"""Human quantities are exact."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.units import format_count, format_share, parse_count, parse_lr, parse_ratio, parse_seconds, parse_share


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


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3h50m", 13_800), ("40 min", 2_400), ("40m", 2_400), ("90 s", 90), ("90s", 90), ("1d2h", 93_600), ("1 h 1 s", 3_601),
        ("03:50:00", 13_800), ("30:00", 1_800), ("2-00:00:00", 172_800), ("1-12:30:15", 131_415), (" 1h ", 3_600),
    ],
)  # fmt: skip
def test_times(text, seconds):
    assert parse_seconds(text) == seconds and isinstance(parse_seconds(text), float)


@pytest.mark.parametrize(
    "text", ["", "0", "0s", "00:00:00", "90", "1.5h", "-1h", "1h-2m", "2m1h", "soon", "1:2:3:4", "3 hours"]
)
def test_what_is_not_a_time_is_refused(text):
    with pytest.raises(ValueError, match="is not a time such as 3h50m, 90 s or 03:50:00"):
        parse_seconds(text)


@given(st.integers(0, 30), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_a_time_is_the_same_in_words_and_by_the_clock(days, hours, minutes, seconds):
    exact = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    words = f"{days}d{hours}h{minutes}m{seconds}s"
    assert parse_seconds(words) == parse_seconds(f"{days}-{hours:02d}:{minutes:02d}:{seconds:02d}") == exact


def test_formats():
    assert [format_count(n) for n in (0, 999, 301_056, 22 * 10**9)] == ["0", "999", "301k", "22B"]
    assert [format_share(Fraction(1, 20)), format_share(0.3333)] == ["5%", "33.3%"]
