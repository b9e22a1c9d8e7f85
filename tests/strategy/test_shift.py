"""Grades of shift."""

from __future__ import annotations

import pytest

from keepwarm.strategy.shift import Shift, grade


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (0.9, "none"),
        (1.09, "none"),
        (1.1, "weak"),
        (1.49, "weak"),
        (1.5, "strong"),
        (1.99, "strong"),
        (2.0, "language"),
    ],
)
def test_grades_by_ratio(ratio, expected):
    assert grade(ratio * 1.5, 1.5).grade == expected


def test_words_carry_the_numbers():
    assert grade(3.0, 1.5).words() == "language (bits/byte 3.00 / 1.50 = 2.00)"
    assert Shift("weak", False).words() == "weak (the plan says so)"
