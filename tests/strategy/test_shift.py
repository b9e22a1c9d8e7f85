"""Grades of shift: each number grades for itself, the worst holds."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from keepwarm.evaluate.divergence import Divergence
from keepwarm.strategy.shift import Shift, graded, starting_share

NEAR = Divergence(0.012, 0.012, 0.21, 0.206, 0.30, 0.30, 150_000)


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (0.9, "none"),
        (1.29, "none"),
        (1.3, "weak"),
        (1.49, "weak"),
        (1.5, "strong"),
        (1.99, "strong"),
        (2.0, "language"),
    ],
)
def test_grades_by_ratio(ratio, expected):
    assert graded(NEAR, ratio * 1.5, 1.5).grade == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"js_unigram": 0.05}, "weak"),
        ({"js_unigram": 0.204}, "strong"),
        ({"js_bigram": 0.6}, "strong"),
        ({"js_bigram": 0.639}, "language"),
        ({"js_bigram": 0.760}, "language"),
        ({"new_tokens_per_byte": 0.36}, "weak"),
        ({"new_tokens_per_byte": 0.60}, "language"),
    ],
)
def test_a_low_ratio_does_not_hide_another_number(found, expected):
    assert graded(replace(NEAR, **found), 1.2, 1.5).grade == expected


def test_what_is_not_measured_does_not_grade():
    shift = graded(NEAR, None, 1.5, ("bits/byte: not known",))
    assert (shift.grade, shift.ratio, shift.notes) == ("none", None, ("bits/byte: not known",))
    assert graded(None, None, 1.5) is None


def test_words_carry_the_numbers():
    assert graded(None, 3.0, 1.5).words() == "language (bits/byte 3.00 / 1.50 = 2.00)"
    assert graded(NEAR, 1.5, 1.5).words() == (
        "none (bits/byte 1.50 / 1.50 = 1.00; unigram JS 0.012, null 0.012; bigram JS 0.210, null 0.206; "
        "tokens/byte 0.300 / 0.300 = 1.00)"
    )
    assert Shift("weak", False).words() == "weak (the plan says so)"


def test_why_says_what_each_number_says_and_what_follows():
    assert graded(None, 2.4, 1.5).why() == [
        "bits/byte ratio 1.600 says strong: 1.5 to 2",
        "the worst holds: strong; the ladder begins with 5% of old data, lower shares wait",
    ]


def test_the_ladder_begins_by_the_measured_grade_only():
    starts = [starting_share(graded(None, ratio, 1.0)) for ratio in (1.0, 1.4, 1.7, 2.5)]
    assert starts == [0, Fraction(1, 100), Fraction(5, 100), Fraction(1, 4)]
    assert starting_share(Shift("strong", False)) == 0


def test_it_is_read_back_as_it_was_written():
    shift = graded(NEAR, 2.4, 1.5, ("a note",))
    assert Shift.from_dict(shift.as_dict()) == shift
    with pytest.raises(ValueError, match="'far' is no grade"):
        Shift.from_dict(shift.as_dict() | {"grade": "far"})
