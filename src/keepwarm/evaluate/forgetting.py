"""Forgetting: how much worse an old corpus is than when it was taught, paired window by window.

Forgetting = loss - reference, where the reference is the corpus's loss at the end of the stage that taught it (D_0:
the base at peak), so it is cumulative over the line. Its noise is the standard error of the mean of the paired
differences, by bootstrap over windows: the same windows are easy or hard for both models, so the pairing removes
most of the spread (measured: .002-.04 nats against .04-.09 for a mean).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 1000


def paired_noise(now: Sequence[float], reference: Sequence[float], seed: int = 0) -> float:
    """Standard error of mean(now - reference) over the same windows, by bootstrap. nats per token."""
    assert len(now) == len(reference) > 0, "losses are compared over the same windows only"
    difference = np.asarray(now, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(len(difference), size=(RESAMPLES, len(difference)))
    return float(difference[picks].mean(axis=1).std())
