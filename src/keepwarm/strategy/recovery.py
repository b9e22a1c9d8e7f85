"""Curve fits to what an old corpus has forgotten since the data switched: where it will stand, and how it moves.

Often there is no spike and return at LR_max: the loss jumps within the first 8 % of the stage, then creeps, somewhat
like log(tokens), somewhat like a saturating exponential. a + c log(1 + t/k) alone forecasts too much, a + c exp(-t/k)
alone too little, and the mean of both is off by less than either, from a quarter of the phase to three quarters
(benchmarks/verdicts.py); half of what they differ by is in the doubt. Every k of a grid is fitted by least squares and
counts by its likelihood, so that a k the points leave open widens the doubt. A curve that clearly falls from a peak is
fitted from there on. Times are steps since the switch, values nats per token; numpy alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Shape = Callable[[Floats], Floats]  # of t/k

RECENT = 6  # evaluations that tell the slope
FALLING_Z = -1.3  # Mann-Kendall: one-sided 10 %
_SCALES = 40
_FEWEST_FROM_PEAK = 5


@dataclass(frozen=True, slots=True)
class Fit:
    """A curve a + c shape(t/k): its value at the end and that value's standard deviation; `at` is of the likeliest k."""

    value: float
    doubt: float
    a: float
    c: float
    k: float
    shape: Shape

    def at(self, since_steps: float) -> float:
        """The likeliest curve after so many steps."""
        return float(self.a + self.c * self.shape(np.array(since_steps / self.k)))


@dataclass(frozen=True, slots=True)
class Forecast:
    """Where a curve will be at the end. Nats per token; `doubt` is one standard deviation of `value`.

    `log_time` and `exponential` are what either curve alone says. `slope` (nats a step, Theil-Sen) and `trend_z`
    (Mann-Kendall) are of the last evaluations.
    """

    value: float
    doubt: float
    log_time: Fit
    exponential: Fit
    slope: float
    trend_z: float

    def crosses(self, target: float) -> float:
        """Steps since the switch when the log-time curve has fallen to `target`; inf when it never does."""
        curve = self.log_time
        if curve.c >= 0:
            return math.inf
        exponent = (target - curve.a) / curve.c
        return max(0.0, curve.k * math.expm1(exponent)) if exponent < 700 else math.inf


def forecast(since_steps: Sequence[float], values: Sequence[float], end_step: float, noise: float = 0.0) -> Forecast:
    """The curve at `end_step` (> 0, since the switch), from two or more evaluations at rising steps > 0.

    `noise`: standard error of a value, where it is known; the doubt is never below it.
    """
    t, y = np.asarray(since_steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    assert len(t) == len(y) >= 2 and t[0] > 0, "two evaluations since the switch are the least"
    begin = _peak(y)
    log_time = _fit(np.log1p, t[begin:], y[begin:], end_step, noise)
    exponential = _fit(_fallen, t[begin:], y[begin:], end_step, noise)
    value = (log_time.value + exponential.value) / 2
    doubt = max(noise, log_time.doubt, abs(log_time.value - exponential.value) / 2)
    return Forecast(value, doubt, log_time, exponential, theil_sen(t[-RECENT:], y[-RECENT:]), mann_kendall(y[-RECENT:]))


def theil_sen(t: Sequence[float] | Floats, y: Sequence[float] | Floats) -> float:
    """The median slope over all pairs of points; 0 of fewer than two."""
    x, v = np.asarray(t, dtype=np.float64), np.asarray(y, dtype=np.float64)
    first, second = np.triu_indices(len(x), 1)
    return float(np.median((v[second] - v[first]) / (x[second] - x[first]))) if len(first) else 0.0


def mann_kendall(y: Sequence[float] | Floats) -> float:
    """The trend statistic z: above 0 it rises, below it falls; standard normal where there is no trend."""
    v = np.asarray(y, dtype=np.float64)
    n = len(v)
    first, second = np.triu_indices(n, 1)
    pairs = float(np.sign(v[second] - v[first]).sum())
    spread = math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    return math.copysign(max(0.0, abs(pairs) - 1), pairs) / spread if n > 1 else 0.0


def _fallen(x: Floats) -> Floats:
    return np.asarray(-np.expm1(-x))


def _peak(y: Floats) -> int:
    """Where the fit begins: at the highest point, if the curve clearly falls from it; else at the first."""
    top = int(np.argmax(y))
    return top if len(y) - top >= _FEWEST_FROM_PEAK and mann_kendall(y[top + 1 :]) < 2 * FALLING_Z else 0


def _fit(shape: Shape, t: Floats, y: Floats, end: float, noise: float) -> Fit:
    """Least squares of a + c shape(t/k) for every k of the grid, each weighed by its likelihood."""
    scales = np.geomspace(t[0] / 4, t[-1], _SCALES)
    x = shape(t / scales[:, None])
    middle = x.mean(axis=1)
    moved = x - middle[:, None]
    spread = np.maximum((moved**2).sum(axis=1), 1e-300)
    c = (moved * (y - y.mean())).sum(axis=1) / spread
    a = y.mean() - c * middle
    squares = ((a[:, None] + c[:, None] * x - y) ** 2).sum(axis=1)
    best = int(np.argmin(squares))
    variance = max(float(squares[best]) / max(1, len(t) - 3), noise**2, 1e-12)
    likelihood = np.exp(-(squares - squares[best]) / (2 * variance))
    likelihood /= likelihood.sum()
    far = shape(end / scales)
    ends = a + c * far
    value = float(likelihood @ ends)
    of_line = variance * (1 / len(t) + (far - middle) ** 2 / spread)
    doubt = math.sqrt(float(likelihood @ (of_line + (ends - value) ** 2)))
    return Fit(value, doubt, float(a[best]), float(c[best]), float(scales[best]), shape)
