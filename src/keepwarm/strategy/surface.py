"""Loss over replay share and tokens, fitted to pilots: many laws, each of one bootstrap draw, instead of one.

The parameters that enter nonlinearly are a grid; what remains is the scale, by least squares, robust by Huber's weights
from the residuals of the likeliest law. A draw resamples the held-out windows of the way (the same ones at all points and
shares), scaled to all windows as the pilots' ends know them, and weighs the evaluation points anew; its prior is drawn
too, so that what the pilots leave open (how a curve goes on fifty times further) stays as wide as it was known before.
Points of the same step share their noise, for all pilots are fed alike, so a pilot more adds shares, not points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from keepwarm.strategy.laws import ALPHA, Floats, growth, moved, unprotected

Priors = Mapping[str, tuple[float, float]]
DRAWS = 200
HUBER = 1.345  # residuals beyond so many deviations count less; 95 % efficient where they are normal
_ROUNDS = 4
_FLOOR = 1e-3  # nats: no loss is known better
_SERIAL = 8.0  # points whose noise is one point's worth: that of neighbours goes together (3 by it), and so does misfit
_DRIFTS_ON, _OFF = 0.8, 0.2  # of a slope on record: what of it goes on, and how far off that is; measured .6 to 1
# Centre and width of what is known before a pilot. gamma and log k (in steps) as 20 curves of 120 steps had them (0.4 M
# parameters, five shifts, two seeds each), kappa likewise; alpha 2502.06042 as the prototype found it; eta 2406.01375.
# gamma is narrow on purpose: what is forgotten jumps, pauses, then creeps on. The pause looks like a saturation, and under a
# wide gamma a pilot that ended in it foresaw up to .6 nats too little.
OLD = {"gamma": (-0.2, 0.2), "log_k": (0.9, 1.0), "kappa": (0.4, 0.25), "alpha": (ALPHA, 0.1)}
NEW = {"gamma": (-0.2, 0.2), "log_k": (0.4, 1.2), "eta": (0.8, 0.2)}
_GAMMA, _LOG_K = np.arange(-0.75, 0.26, 0.125), np.linspace(-3.5, 4, 19)


@dataclass(frozen=True, slots=True)
class Points:
    """What pilots measured of one corpus: for each point its pilot's share, tokens fed, and difference to the loss before
    the first step over W held-out windows (points, W); `whole`: its mean over all windows where all were measured, else
    over these."""

    shares: Floats
    tokens: Floats
    windows: Floats
    whole: Floats

    @property
    def values(self) -> Floats:
        """The mean over the windows."""
        return np.asarray(self.windows.mean(axis=1))

    def until(self, tokens: float) -> Points:
        """Those up to so many tokens."""
        kept = self.tokens <= tokens
        return Points(self.shares[kept], self.tokens[kept], self.windows[kept], self.whole[kept])


@dataclass(frozen=True, slots=True)
class Steps:
    """How the pilots were trained: tokens of an optimizer step, and AdamW's first beta."""

    tokens: int
    beta: float

    def law(self, grid: Mapping[str, Floats]) -> dict[str, Any]:
        """What a law needs of it, beside the grid's parameters: k in tokens."""
        return {"k": self.tokens * np.exp(grid["log_k"]), "step_tokens": self.tokens, "beta": self.beta}


@dataclass(frozen=True, slots=True)
class Drift:
    """What more of the replayed data alone does to a corpus: slope log(1 + t/before), nats a factor e, with its doubt."""

    slope: float
    doubt: float
    before_tokens: float


@dataclass(frozen=True, slots=True)
class Surface:
    """Laws of one corpus, an array over the draws for each parameter; `noise` is that of one point, nats per token."""

    law: Mapping[str, Any]
    noise: float


def fit_old(points: Points, drift: Drift, steps: Steps, seed: int) -> Surface:
    """An old corpus: `laws.old_loss`."""
    unit = float(points.tokens.max())
    axes = {
        "gamma": _GAMMA, "log_k": _LOG_K, "b": np.geomspace(0.3, 3e3, 21), "kappa": np.array([0.0, 0.25, 0.5, 0.75]),
        "alpha": np.array([0.35, 0.5, 0.65]),
    }  # fmt: skip
    grid = _grid(axes)
    left = unprotected(points.shares, grid["b"] * (points.tokens / unit) ** grid["kappa"], grid["alpha"])
    curve = left * growth(moved(points.tokens, steps.tokens, steps.beta) / steps.law(grid)["k"], grid["gamma"])
    alone = (1 - left) * np.log1p(points.tokens / drift.before_tokens)
    slopes = drift.slope + drift.doubt * np.random.default_rng((seed, 1)).standard_normal(DRAWS)
    found = _fit(points, grid, OLD, curve, alone, drift.slope, slopes, seed)
    more = {"drift": slopes, "before_tokens": drift.before_tokens, "unit_tokens": unit}
    return Surface({**found.law, **more, **steps.law(found.law)}, found.noise)


def fit_new(points: Points, steps: Steps, seed: int) -> Surface:
    """The new corpus: `laws.new_gain`. The points are differences of loss, which fall."""
    grid = _grid({"gamma": _GAMMA, "log_k": _LOG_K, "eta": np.arange(0.2, 1.41, 0.2)})
    tokens = (1 - points.shares) ** grid["eta"] * moved(points.tokens, steps.tokens, steps.beta)
    curve = growth(tokens / steps.law(grid)["k"], grid["gamma"])
    gains = Points(points.shares, points.tokens, -points.windows, -points.whole)
    found = _fit(gains, grid, NEW, curve, np.zeros_like(curve), 0.0, np.zeros(DRAWS), seed)
    return Surface({**found.law, **steps.law(found.law)}, found.noise)


def _grid(axes: Mapping[str, Floats]) -> dict[str, Floats]:
    """Every combination, each parameter as a column (cells, 1)."""
    cells = np.array(list(product(*axes.values())))
    return {name: cells[:, [number]] for number, name in enumerate(axes)}


def _fit(
    points: Points,
    grid: Mapping[str, Floats],
    known: Priors,
    curve: Floats,
    alone: Floats,
    slope: float,
    slopes: Floats,
    seed: int,
) -> Surface:
    """Values = scale curve + slope alone, for every cell of the grid (cells, points), and every draw of the slope."""
    rng = np.random.default_rng((seed, 2))
    centre = {name: np.array([mean]) for name, (mean, _) in known.items()}
    values, robust, noise = points.values, np.ones(len(points.values)), 1.0
    for _ in range(_ROUNDS):
        cell, scale = _likeliest(
            grid, known, curve, alone, values[:, None], robust[:, None], np.array([slope]), centre, noise
        )
        residuals = np.abs(values - scale * curve[cell[0]] - slope * alone[cell[0]])
        noise = max(_FLOOR, 1.4826 * float(np.median(residuals)))
        robust = np.minimum(1.0, HUBER * noise / np.maximum(residuals, 1e-12))
    steps, step_of = np.unique(points.tokens, return_inverse=True)
    shared = len(points.tokens) / len(steps)  # points of one step
    weights = robust[:, None] * rng.exponential(size=(len(steps), DRAWS))[step_of]
    count = points.windows.shape[1]
    picks = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS) / count
    priors = {name: mean + width * rng.standard_normal(DRAWS) for name, (mean, width) in known.items()}
    drawn = points.windows @ picks.T
    cell, scale = _likeliest(
        grid, known, curve, alone, drawn, weights, slopes, priors, noise * np.sqrt(shared * _SERIAL)
    )
    law = {name: each[cell, 0] for name, each in grid.items()}
    return Surface(law | {"scale": scale * _to_all_windows(points, drawn)}, noise)


def _to_all_windows(points: Points, drawn: Floats) -> Floats:
    """For each draw of windows, what a difference over these is over all of them, as the pilots' ends measured it."""
    last = points.tokens == points.tokens.max()
    part, whole = drawn[last], points.whole[last]
    return np.asarray(np.clip(whole @ part / np.maximum((part**2).sum(axis=0), 1e-300), 0.5, 2.0))


def _likeliest(
    grid: Mapping[str, Floats], known: Priors, curve: Floats, alone: Floats, values: Floats, weights: Floats,
    slopes: Floats, priors: Mapping[str, Floats], noise: float,
) -> tuple[Any, Floats]:  # fmt: skip
    """For each draw (a column of `values`, `weights`) the likeliest cell, and its scale >= 0."""
    seen = weights * values
    along = curve @ seen - slopes * ((curve * alone) @ weights)
    across = np.maximum((curve**2) @ weights, 1e-300)
    rest = (values * seen).sum(axis=0) - 2 * slopes * (alone @ seen) + slopes**2 * ((alone**2) @ weights)
    scales = np.maximum(along / across, 0.0)
    cost = (rest - 2 * scales * along + scales**2 * across) / (2 * noise**2)
    for name, centre in priors.items():
        cost = cost + ((grid[name] - centre) / known[name][1]) ** 2 / 2
    cell = np.argmin(cost, axis=0)
    return cell, scales[cell, np.arange(len(cell))]


def drift_of(tokens: Sequence[float], losses: Sequence[float]) -> tuple[float, float] | None:
    """Slope of a loss against log tokens as it goes on from the later half of what is on record, less than it was there, and
    how far it may be off; None of fewer than five points."""
    t, y = np.asarray(tokens, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    late = t >= t.max() / 2 if len(t) else np.zeros(0, dtype=bool)
    if late.sum() < 5:
        return None
    x = np.log(t[late]) - np.log(t[late]).mean()
    slope = float(x @ y[late] / (x @ x))
    rest = y[late] - y[late].mean() - slope * x
    doubt = math.hypot(math.sqrt(rest @ rest / (late.sum() - 2) / (x @ x)), _OFF * slope)
    return _DRIFTS_ON * slope, doubt
