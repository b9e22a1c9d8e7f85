"""Published laws of forgetting and adaptation, and the curves in tokens that go with them. numpy alone.

Forgetting against the replay share p: F(p) = f0 (1 + b p)^-alpha, the law of 2502.06042 (injected pre-training data
multiplies the effective parameters: L = L0 + A D^beta / ((1 + B p) N)^alpha + E) at one model and one budget. alpha is
a prior, .5: in a prototype the law fitted to 0 and 5 % predicted 25 % within .02 nats on a seed held out, and with a
free alpha missed it by .1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ALPHA = 0.5
_STRENGTHS = np.geomspace(0.1, 1e5, 2401)  # of b: 1 % replay that does nothing to 1 % that removes almost all


@dataclass(frozen=True, slots=True)
class ForgettingLaw:
    """F(p) = f0 (1 + b p)^-alpha, nats per token."""

    f0: float
    b: float
    alpha: float = ALPHA

    def at(self, share: float) -> float:
        """Forgetting at a replay share in [0, 1]."""
        return float(self.f0 * (1 + self.b * share) ** -self.alpha)

    def share_for(self, forgetting: float) -> float:
        """The least replay share that forgets no more than that; inf where none does."""
        if forgetting >= self.f0:
            return 0.0
        return math.inf if forgetting <= 0 else float(((self.f0 / forgetting) ** (1 / self.alpha) - 1) / self.b)


def forgetting_law(shares: Sequence[float], forgetting: Sequence[float], alpha: float = ALPHA) -> ForgettingLaw | None:
    """The law through two or more measured (share, forgetting > 0), by least squares; None where they don't fall."""
    p, seen = np.asarray(shares, dtype=np.float64), np.asarray(forgetting, dtype=np.float64)
    if len(np.unique(p)) < 2 or seen.min() <= 0 or np.polyfit(p, seen, 1)[0] >= 0:
        return None
    curves = (1 + _STRENGTHS[:, None] * p) ** -alpha
    scales = (curves * seen).sum(axis=1) / (curves**2).sum(axis=1)
    best = int(np.argmin(((scales[:, None] * curves - seen) ** 2).sum(axis=1)))
    return ForgettingLaw(float(scales[best]), float(_STRENGTHS[best]), alpha)


def growth(x: Floats, gamma: float | Floats) -> Floats:
    """How a loss moves with tokens, x = t/k: ((1 + x)^gamma - 1) / gamma, log(1 + x) at gamma 0.

    One family for what is published and what is measured: above 0 the power law D^beta of 2502.06042, 0 the log-time
    growth of the cookbook's measurement, below 0 a saturation, the E + B/D^beta of 2406.01375.
    """
    log, power = np.log1p(x), np.asarray(gamma, dtype=np.float64)
    flat = np.abs(power) < 1e-9
    return np.asarray(np.where(flat, log, np.expm1(power * log) / np.where(flat, 1.0, power)))


def moved(tokens: float | Floats, step_tokens: int, beta: float) -> Floats:
    """Tokens less those that the optimizer's first moment has not followed yet: it is kept, and holds old data's gradients.

    After n steps a gradient weighs 1 - beta^n of what it will, so n - beta (1 - beta^n) / (1 - beta) steps were made.
    """
    steps = np.asarray(tokens, dtype=np.float64) / step_tokens
    return np.asarray(step_tokens * (steps - beta * (1 - beta**steps) / (1 - beta)))


def unprotected(share: float | Floats, strength: float | Floats, alpha: float | Floats = ALPHA) -> Floats:
    """What is left, at a replay share p, of the forgetting without replay: (1 + b p)^-alpha, moved to be 1 at 0 and 0 at 1.

    That is the law of 2502.06042 for forgetting against the matched run on old data alone, which forgets nothing.
    """
    whole = (1 + np.asarray(strength)) ** -np.asarray(alpha)
    return np.asarray(((1 + strength * np.asarray(share)) ** -np.asarray(alpha) - whole) / (1 - whole))


def old_loss(share: float, tokens: float, law: Mapping[str, Any]) -> Floats:
    """Loss of an old corpus above where the stage began, nats per token, of one law or of many (arrays).

    w F(t) + (1 - w) C(t) with w = `unprotected`: F = scale growth(t'/k) without replay, t' = `moved`, and
    C = drift log(1 + t/before) on old data alone. The strength of replay is b (t/unit)^kappa: each replayed token
    protects, and there are ever more of them.
    """
    strength = law["b"] * (tokens / law["unit_tokens"]) ** law["kappa"]
    left = unprotected(share, strength, law["alpha"])
    alone = law["drift"] * math.log1p(tokens / law["before_tokens"])
    return np.asarray(left * law["scale"] * growth(_moved(tokens, law) / law["k"], law["gamma"]) + (1 - left) * alone)


def new_gain(share: float, tokens: float, law: Mapping[str, Any]) -> Floats:
    """What the new corpus has gained, nats per token: scale growth((1 - p)^eta t'/k), t' = `moved`.

    2406.01375 at one model: L = E + B r^eta' / D^beta, r = 1 - p the new data's share; r counts as so many fewer tokens.
    """
    return np.asarray(law["scale"] * growth((1 - share) ** law["eta"] * _moved(tokens, law) / law["k"], law["gamma"]))


def _moved(tokens: float, law: Mapping[str, Any]) -> Floats:
    return moved(tokens, law["step_tokens"], law["beta"])


def critical_law(tokens: Sequence[float], shares: Sequence[float]) -> tuple[float, float, float] | None:
    """(b0, b1, s) of R = b0 + b1 T^s, the greatest share of new data by budget (2407.17467), by least squares over a grid of
    s; None of fewer than three budgets."""
    t, seen = np.asarray(tokens, dtype=np.float64), np.asarray(shares, dtype=np.float64)
    if len(np.unique(t)) < 3:
        return None
    fits = []
    for s in (each for each in np.round(np.arange(-2, 2.01, 0.1), 1) if each):
        columns = np.stack([np.ones_like(t), (t / t.max()) ** s], axis=1)
        found, *_ = np.linalg.lstsq(columns, seen, rcond=None)
        fits.append(
            (float(((columns @ found - seen) ** 2).sum()), float(found[0]), float(found[1] / t.max() ** s), float(s))
        )
    return min(fits)[1:]
