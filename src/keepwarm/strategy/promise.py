"""What a replay share promises: its forgetting by the law that is fitted to the shares of its family tried so far.

A family is a rung with all its settings but the share; `naive` is share 0 of the rungs that stay at LR_max. Two shares
fix the law (strategy/laws.py), so nothing is said before two were seen. What the law says is doubted by how far it moves
when each measurement does within its own doubt, and when the law's prior exponent is another: only what lies beyond the
tolerance all the same is called hopeless.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from keepwarm.plan.rungs import Candidate
from keepwarm.strategy.laws import forgetting_law

STEEPER = 0.75  # another exponent of the law, beside its prior
NOISE_WIDTHS = 2.0
_AT_PEAK = ("replay", "replay-previous-mix")
_SHARES = ("share", "alpha_0")  # the settings that say how much old data is replayed

Seen = tuple[Candidate, Mapping[str, "Forgotten"]]  # an attempt, and what it forgot of each old corpus


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What an attempt forgot of an old corpus, measured at its end or forecast for it. Nats per token."""

    forgetting: float
    doubt: float
    tolerance: float

    @classmethod
    def of(cls, corpus: Mapping[str, Any]) -> Forgotten:
        """From a corpus of a recorded verdict; the forecast, where the attempt was stopped early and has one."""
        forecast = corpus.get("forecast")
        measured = NOISE_WIDTHS * corpus["noise"]
        if forecast is None:
            return cls(corpus["forgetting"], measured, corpus["tolerance"])
        return cls(forecast, max(measured, corpus.get("doubt") or 0.0), corpus["tolerance"])

    @property
    def excess(self) -> float:
        """Beyond the tolerance."""
        return self.forgetting - self.tolerance


def share_of(candidate: Candidate) -> Fraction | None:
    """The share of old data that tells a candidate from the others of its family."""
    if candidate.rung == "naive":
        return Fraction(0)
    return next((candidate.parameters[key] for key in _SHARES if key in candidate.parameters), None)


def hopeless(candidate: Candidate, seen: Sequence[Seen]) -> tuple[str, float] | None:
    """Why a share would clearly forget more than the tolerance, and by how many nats; None where it may hold."""
    share = share_of(candidate)
    if share is None:
        return None
    family = [(float(at), forgotten) for at, forgotten in _family(candidate, seen)]
    found = []
    for name in dict.fromkeys(name for _, forgotten in family for name in forgotten):
        points = [(at, forgotten[name]) for at, forgotten in family if name in forgotten]
        expected = _expected(float(share), points)
        tolerance = points[-1][1].tolerance
        if expected is not None and expected[0] - expected[1] > tolerance:
            words = (
                f"{name} would be forgotten by {expected[0]:.3f} +- {expected[1]:.3f} nats (the law through "
                f"{', '.join(f'{at:.3g}' for at in sorted({at for at, _ in points}))}), tolerance {tolerance:.3f}"
            )
            found.append((words, expected[0] - tolerance))
    return max(found, key=lambda each: each[1], default=None)


def kin(candidate: Candidate, other: Candidate) -> bool:
    """Whether what `other` forgot says something of a candidate: another share of its family, or none of it."""
    return _of_family(other) == _of_family(candidate) or (other.rung == "naive" and candidate.rung in _AT_PEAK)


def _family(candidate: Candidate, seen: Sequence[Seen]) -> Iterator[tuple[Fraction, Mapping[str, Forgotten]]]:
    for other, forgotten in seen:
        share = share_of(other)
        if share is not None and kin(candidate, other):
            yield share, forgotten


def _of_family(candidate: Candidate) -> tuple[str, dict[str, Any]]:
    return candidate.rung, {key: value for key, value in candidate.parameters.items() if key not in _SHARES}


def _expected(share: float, points: Sequence[tuple[float, Forgotten]]) -> tuple[float, float] | None:
    """Forgetting at a share by the law through `points`, and its doubt; None where the law does not fit them."""
    shares, forgetting = [at for at, _ in points], [found.forgetting for _, found in points]
    if len(set(shares)) < 2:
        return None
    moved = [
        [value + (found.doubt if here == at else 0.0) for here, value in enumerate(forgetting)]
        for at, (_, found) in enumerate(points)
    ]
    fits = [forgetting_law(shares, values) for values in (forgetting, *moved)]
    steeper = forgetting_law(shares, forgetting, STEEPER)
    laws = [law for law in (*fits, steeper) if law is not None]
    if len(laws) < len(fits) + 1:
        return None
    expected = laws[0].at(share)
    return expected, math.hypot(*(law.at(share) - expected for law in laws[1:]))
