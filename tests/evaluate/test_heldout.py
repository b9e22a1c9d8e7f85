"""Held-out evaluation: what is measured."""

from __future__ import annotations

import math

import numpy as np
import pytest

from keepwarm.evaluate.forgetting import paired_noise
from keepwarm.evaluate.heldout import HeldOut, bits_per_byte, measure, subset


def test_subset_is_fixed_and_even():
    assert subset(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert subset(3, 8).tolist() == [0, 1, 2]


def test_measure_uses_all_windows_or_the_subset():
    heldout = HeldOut("d0", np.arange(20).reshape(10, 2), None)
    losses = lambda windows: windows[:, 0].astype(float)  # noqa: E731
    assert measure(heldout, losses).loss == 9.0
    assert measure(heldout, losses, 5).windows == (0.0, 4.0, 8.0, 12.0, 16.0)


def test_bits_per_byte():
    assert bits_per_byte(math.log(2) * 4, 0.25) == pytest.approx(1.0)
    assert bits_per_byte(1.0, None) is None


def test_pairing_removes_the_spread_between_windows():
    rng = np.random.default_rng(3)
    hard = rng.normal(3, 1, 100)
    assert paired_noise(hard + 0.2, hard) == pytest.approx(0.0, abs=1e-12)
    jitter = rng.normal(0, 0.1, 100)
    assert paired_noise(hard + jitter, hard) == pytest.approx(jitter.std() / 10, rel=0.15)
