"""Curve fits: what a curve says of its end."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.strategy.recovery import forecast, mann_kendall, theil_sen

T = np.arange(5.0, 60, 5)


@given(st.floats(-1, 2), st.floats(0.05, 1), st.sampled_from([2.0, 5.0, 20.0]))
def test_log_growth_is_foretold(a, c, k):
    found = forecast(T, a + c * np.log1p(T / k), 100.0)
    assert found.log_time.value == pytest.approx(a + c * math.log1p(100 / k), abs=0.03 * c)
    assert found.value == pytest.approx((found.log_time.value + found.exponential.value) / 2)


def test_exponential_saturation_is_lower_and_widens_the_doubt():
    found = forecast(T, 0.3 * np.log1p(T / 5), 100.0)
    assert found.exponential.value < found.log_time.value
    assert found.doubt >= (found.log_time.value - found.exponential.value) / 2


@given(st.floats(-5, 5))
def test_a_constant_moves_the_forecast_by_itself(shift):
    rng = np.random.default_rng(3)
    values = 0.4 * np.log1p(T / 5) + rng.normal(0, 0.02, len(T))
    one, other = forecast(T, values, 100.0), forecast(T, values + shift, 100.0)
    assert other.value == pytest.approx(one.value + shift, abs=1e-6) and other.doubt == pytest.approx(
        one.doubt, abs=1e-6
    )


def test_the_doubt_is_never_below_the_noise():
    assert forecast(T, 0.2 * np.log1p(T / 5), 100.0, noise=0.5).doubt >= 0.5


def test_where_a_falling_curve_meets_a_target():
    found = forecast(T, 1.0 - 0.2 * np.log1p(T / 5), 100.0)
    assert found.crosses(0.3) == pytest.approx(5 * math.expm1(3.5), rel=0.05)
    assert forecast(T, 0.2 * np.log1p(T / 5), 100.0).crosses(0.0) == math.inf


def test_theil_sen_is_the_median_slope():
    assert theil_sen([0, 1, 2, 3], [0, 1, 2, 100]) == pytest.approx((1 + 100 / 3) / 2)  # of 1, 1, 1, 33.3, 49.5, 98
    assert theil_sen([1.0], [5.0]) == 0.0


def test_mann_kendall_tells_the_direction():
    assert mann_kendall([1, 2, 3, 4, 5, 6]) == pytest.approx(14 / math.sqrt(6 * 5 * 17 / 18))
    assert mann_kendall([6, 5, 4, 3, 2, 1]) == -mann_kendall([1, 2, 3, 4, 5, 6])
    assert mann_kendall([1, 1, 1]) == 0.0
