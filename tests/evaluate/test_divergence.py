"""Divergence of token samples, in bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm.evaluate.divergence import bigrams, jensen_shannon, unigrams

SAMPLES = st.lists(st.integers(0, 20), min_size=1, max_size=60).map(lambda found: np.array(found, dtype=np.int64))


@given(SAMPLES, SAMPLES)
def test_it_is_symmetric_and_between_0_and_1_bit(first, second):
    found = jensen_shannon(first, second)
    assert found == pytest.approx(jensen_shannon(second, first), abs=1e-12) and 0 <= found <= 1


@given(SAMPLES)
def test_equal_shares_do_not_diverge(sample):
    assert jensen_shannon(sample, np.tile(sample, 3)) == pytest.approx(0, abs=1e-12)


def test_exact_values():
    assert jensen_shannon(np.array([0, 0]), np.array([1, 1])) == 1.0
    # P = (1, 0), Q = (1/2, 1/2): H(3/4, 1/4) - H(1/2, 1/2) / 2
    expected = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25)) - 0.5
    assert jensen_shannon(np.array([0, 0]), np.array([0, 1])) == pytest.approx(expected)


def test_the_last_token_of_a_window_is_the_next_ones_first():
    windows = np.array([[1, 2, 3], [3, 4, 5]], dtype=np.int32)
    assert unigrams(windows).tolist() == [1, 2, 3, 4]
    assert bigrams(windows).tolist() == [(1 << 32) + 2, (2 << 32) + 3, (3 << 32) + 4, (4 << 32) + 5]
